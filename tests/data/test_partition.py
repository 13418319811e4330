"""Partitions: laws that all keep, each definition against a slow loop or its law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import jaxfed as jf
import jaxfed.data
from jaxfed.data import _parts, partition

# name, and a function of (labels, num_clients, seed) -> client column
PARTITIONS = {
    "iid": lambda y, n, s: partition.iid(len(y), num_clients=n, seed=s),
    "over_clients": lambda y, n, s: partition.dirichlet_over_clients(
        y, num_clients=n, concentration=0.1, seed=s
    ),
    "over_clients_balancing": lambda y, n, s: partition.dirichlet_over_clients(
        y, num_clients=n, concentration=0.1, seed=s, self_balancing=True
    ),
    "over_classes": lambda y, n, s: partition.dirichlet_over_classes(
        y, num_clients=n, concentration=0.1, seed=s
    ),
    "shards": lambda y, n, s: partition.shards(
        y, num_clients=n, shards_per_client=1, seed=s
    ),
    "classes": lambda y, n, s: partition.classes_per_client(
        y, num_clients=n, classes_per_client=len(set(y)), seed=s
    ),
    "quantity": lambda y, n, s: partition.quantity(
        len(y), num_clients=n, concentration=0.1, seed=s
    ),
}
LABELS = st.lists(st.integers(-2, 4), min_size=1, max_size=60)


@pytest.mark.parametrize("name", PARTITIONS)
@given(labels=LABELS, num_clients=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_every_row_has_one_owner_and_every_client_a_row(
    name, labels, num_clients, seed
):
    make, labels = PARTITIONS[name], np.array(labels)
    if len(labels) < num_clients:
        with pytest.raises(ValueError, match=r"cannot give \d+ clients .* use fewer"):
            make(labels, num_clients, seed)
        return
    column = make(labels, num_clients, seed)
    assert column.shape == labels.shape
    assert column.dtype == np.int64
    assert set(column) == set(range(num_clients))
    assert np.array_equal(column, make(labels, num_clients, seed))


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_seed_decides_and_the_global_state_does_not(name):
    labels = np.arange(400) % 7
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (PARTITIONS[name](labels, 5, s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("seed", [None, -1, 1.5, True, "0"])
def test_a_seed_must_be_an_integer(seed):
    with pytest.raises(
        ValueError, match=r"seed must be an integer with 0 <= seed .* got .*seed=0"
    ):
        partition.iid(10, num_clients=2, seed=seed)


def test_a_column_goes_into_federated_data():
    labels = np.array(["cat", "dog"] * 20)
    column = partition.shards(labels, num_clients=4, seed=0)
    arrays = {"x": np.arange(40.0), "y": (labels == "dog").astype(int)}
    d = jf.data.FederatedData.from_arrays(arrays, client=column)
    assert d.num_clients == 4
    assert sorted(d.arrays["x"]) == list(range(40))


def test_iid_sizes_are_even():
    sizes = np.bincount(partition.iid(1003, num_clients=10, seed=0))
    assert sorted(sizes) == [100] * 7 + [101] * 3


def slow_fill(owners, num_clients, minimum, held):
    """Moves last rows of the largest client; `held` lists rows in dealing order."""
    for client in range(num_clients):
        while len(held[client]) < minimum:
            largest = max(range(num_clients), key=lambda c: (len(held[c]), -c))
            row = held[largest].pop()
            held[client].append(row)
            owners[row] = client


def slow_over_clients(labels, num_clients, concentration, seed, minimum, balancing):
    generator = np.random.default_rng(seed)
    owners = {}
    held = [[] for _ in range(num_clients)]
    for label in sorted(set(labels.tolist())):
        rows = [i for i, y in enumerate(labels) if y == label]
        rows = [int(i) for i in generator.permutation(rows)]
        shares = list(generator.dirichlet([concentration] * num_clients))
        if balancing:
            for j in range(num_clients):
                if len(held[j]) >= len(labels) / num_clients:
                    shares[j] = 0.0
        start, cumulative, total = 0, 0.0, sum(shares)
        for j in range(num_clients):
            cumulative += shares[j]
            end = int(cumulative / total * len(rows))
            for row in rows[start:end]:
                owners[row] = j
                held[j].append(row)
            start = end
    slow_fill(owners, num_clients, minimum, held)
    return [owners[i] for i in range(len(labels))]


@pytest.mark.parametrize("balancing", [False, True])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("concentration", "minimum"), [(0.05, 1), (0.5, 10), (50, 3)])
def test_dirichlet_over_clients_is_the_definition(
    seed, concentration, minimum, balancing
):
    labels = np.random.default_rng(9).integers(0, 4, 300)
    column = partition.dirichlet_over_clients(
        labels,
        num_clients=8,
        concentration=concentration,
        seed=seed,
        min_examples=minimum,
        self_balancing=balancing,
    )
    expected = slow_over_clients(labels, 8, concentration, seed, minimum, balancing)
    assert column.tolist() == expected
    assert np.bincount(column).min() >= minimum


def test_self_balancing_with_shares_of_full_clients_only():
    # Almost every draw is one client's alone; once full, its share is nobody's.
    column = partition.dirichlet_over_clients(
        np.arange(400) // 40,
        num_clients=4,
        concentration=1e-9,
        seed=0,
        self_balancing=True,
    )
    assert np.bincount(column).max() < 200


def slow_class_law(wanted, left, size):
    """Exact law of the class counts of `size` sequential draws."""
    law = {(0,) * len(left): 1.0}
    for _ in range(size):
        following = {}
        for taken, chance in law.items():
            open_classes = [k for k in range(len(left)) if taken[k] < left[k]]
            total = sum(wanted[k] for k in open_classes)
            for k in open_classes:
                step = list(taken)
                step[k] += 1
                key = tuple(step)
                share = chance * wanted[k] / total
                following[key] = following.get(key, 0.0) + share
        law = following
    return law


def test_class_draws_skip_a_class_that_has_run_out():
    # 20,000 draws: false alarm 1e-6; the last line shows that a sampler which gives
    # the surplus of a full class to the others evenly would be caught.
    wanted, left, size = np.array([0.7, 0.2, 0.1]), np.array([2, 3, 4]), 5
    law = slow_class_law(wanted, left, size)
    generator = np.random.default_rng(0)

    def surplus_evenly():
        taken = np.minimum(generator.multinomial(size, wanted), left)
        while taken.sum() < size:
            taken[generator.choice(np.flatnonzero(taken < left))] += 1
        return taken

    def pvalue(draw):
        seen = dict.fromkeys(law, 0)
        for _ in range(20_000):
            seen[tuple(int(k) for k in draw())] += 1
        expected = [20_000 * law[key] for key in law]
        return stats.chisquare(list(seen.values()), expected).pvalue

    def ours():
        return _parts.draw_classes(generator, wanted, left, size)

    assert pvalue(ours) > 1e-6
    assert pvalue(surplus_evenly) < 1e-6


def test_class_draws_fall_back_on_what_is_left():
    generator = np.random.default_rng(0)
    taken = _parts.draw_classes(
        generator, np.array([1.0, 0.0, 0.0]), np.array([2, 0, 9]), 6
    )
    assert list(taken) == [2, 0, 4]


def first_client_shares(make, draws):
    """Share of class 0 (prior 1/4) in client 0, which draws before classes run out."""
    labels = np.repeat([0, 1, 1, 1], 1000)
    shares = []
    for seed in range(draws):
        own = labels[make(labels, seed) == 0]
        shares.append((own == 0).mean())
    return np.array(shares)


def test_dirichlet_over_classes_has_concentration_times_prior():
    # The share q of class 0 is Beta(c / 4, 3 c / 4); 400 rows of a client see it with
    # binomial error. 600 draws of a normalised sum of squares: false alarm 1e-6, and
    # concentrations wrong by a factor of 2 (as when the prior is not normalised) fall
    # outside.
    concentration, rows, draws = 2.0, 400, 600

    def shares(c):
        return first_client_shares(
            lambda y, s: partition.dirichlet_over_classes(
                y, num_clients=10, concentration=c, seed=s
            ),
            draws,
        )

    beta = 3 / 16 / (concentration + 1)
    variance = beta + (3 / 16 - beta) / rows

    def deviation(found):
        squares = (found - 0.25) ** 2
        return (squares.mean() - variance) / (squares.std() / np.sqrt(draws))

    mean_error = (shares(concentration).mean() - 0.25) / np.sqrt(variance / draws)
    assert abs(mean_error) < 4.9
    assert abs(deviation(shares(concentration))) < 4.9
    assert deviation(shares(concentration / 2)) > 4.9
    assert deviation(shares(concentration * 2)) < -4.9


def test_dirichlet_over_classes_gives_even_sizes():
    labels = np.random.default_rng(0).integers(0, 10, 1007)
    column = partition.dirichlet_over_classes(
        labels, num_clients=100, concentration=0.3, seed=0
    )
    assert set(np.bincount(column)) == {10, 11}


def test_the_two_dirichlets_differ():
    # Over classes: equal sizes, a client sees few classes. Over clients: sizes differ.
    labels = np.repeat(np.arange(10), 100)
    settings = {"num_clients": 10, "concentration": 0.3, "seed": 0}
    over_clients = np.bincount(partition.dirichlet_over_clients(labels, **settings))
    over_classes = np.bincount(partition.dirichlet_over_classes(labels, **settings))
    assert set(over_classes) == {100}
    assert over_clients.max() > 2 * over_clients.min()


@pytest.mark.parametrize("partition_name", ["clients", "classes"])
def test_large_concentration_is_even_and_small_is_skewed(partition_name):
    make = getattr(partition, f"dirichlet_over_{partition_name}")
    labels = np.repeat(np.arange(5), 400)

    def classes_held(concentration):
        column = make(labels, num_clients=10, concentration=concentration, seed=3)
        return np.mean([len(set(labels[column == c])) for c in range(10)])

    assert classes_held(1e4) == 5
    assert classes_held(1e-4) < 2.5


@pytest.mark.parametrize(("clients", "each"), [(10, 2), (7, 3)])
def test_shards_is_the_definition(clients, each):
    labels = np.random.default_rng(1).integers(0, 6, 421)
    column = partition.shards(
        labels, num_clients=clients, shards_per_client=each, seed=4
    )
    order = sorted(range(421), key=lambda i: (labels[i], i))
    small, more = divmod(421, clients * each)
    pieces, start = [], 0
    for k in range(clients * each):
        end = start + small + (k < more)
        pieces.append(order[start:end])
        start = end
    deal = np.random.default_rng(4).permutation(clients * each)
    for client in range(clients):
        own = sorted(i for k in deal[client * each :][:each] for i in pieces[k])
        assert np.flatnonzero(column == client).tolist() == own


def test_shards_of_even_classes_hold_few_labels_each():
    labels = np.tile(np.arange(10), 600)
    column = partition.shards(labels, num_clients=100, seed=0)
    assert max(len(set(labels[column == c])) for c in range(100)) == 2
    assert set(np.bincount(column)) == {60}


@pytest.mark.parametrize(
    ("clients", "k", "classes"), [(10, 2, 10), (25, 3, 10), (4, 3, 10), (10, 10, 10)]
)
def test_classes_per_client_is_the_definition(clients, k, classes):
    labels = np.random.default_rng(2).integers(0, classes, 5000)
    column = partition.classes_per_client(
        labels, num_clients=clients, classes_per_client=k, seed=5
    )
    for client in range(clients):
        held = set(labels[column == client].tolist())
        assert len(held) == k
        assert client % classes in held
        assert held >= set(range(client, classes, clients))
    for label in range(classes):
        parts = np.bincount(column[labels == label], minlength=clients)
        owned = parts[parts > 0]
        assert owned.max() - owned.min() <= 1


def test_classes_per_client_draws_the_others_evenly():
    # Client 0 of 2 classes: the other is uniform over 4. 4,000 draws, false alarm
    # 1e-6; the second line shows the power against one class at 1.3 times its chance.
    labels = np.repeat(np.arange(5), 5)
    counts = np.zeros(5)
    for seed in range(4000):
        column = partition.classes_per_client(
            labels, num_clients=5, classes_per_client=2, seed=seed
        )
        for label in set(labels[column == 0].tolist()) - {0}:
            counts[label] += 1
    assert stats.chisquare(counts[1:]).pvalue > 1e-6
    assert stats.chisquare(np.array([1300, 900, 900, 900])).pvalue < 1e-6


@pytest.mark.parametrize(
    ("clients", "k", "remedy"), [(10, 6, "at most 5"), (2, 2, "at least 3")]
)
def test_classes_per_client_refuses_what_cannot_be(clients, k, remedy):
    with pytest.raises(ValueError, match=rf"classes_per_client={k} .*{remedy}"):
        partition.classes_per_client(
            np.arange(50) % 5, num_clients=clients, classes_per_client=k, seed=0
        )


@pytest.mark.parametrize("concentration", [0.05, 1.0, 30.0])
def test_quantity_is_the_definition(concentration):
    column = partition.quantity(
        500, num_clients=12, concentration=concentration, seed=6, min_examples=2
    )
    generator = np.random.default_rng(6)
    rows = generator.permutation(500).tolist()
    shares = generator.dirichlet([concentration] * 12)
    owners, held, start = {}, [], 0
    for client in range(12):
        end = int(sum(shares[: client + 1]) / sum(shares) * 500)
        held.append(rows[start:end])
        owners |= dict.fromkeys(rows[start:end], client)
        start = end
    slow_fill(owners, 12, 2, held)
    assert column.tolist() == [owners[i] for i in range(500)]


@pytest.mark.parametrize("concentration", [0, -1, np.nan, np.inf, True])
@pytest.mark.parametrize("name", ["over_clients", "over_classes"])
def test_concentration_must_be_positive(name, concentration):
    make = getattr(partition, "dirichlet_" + name)
    with pytest.raises(ValueError, match="concentration must be"):
        make(np.arange(9), num_clients=3, concentration=concentration, seed=0)


@pytest.mark.parametrize("labels", [np.zeros((4, 2), int), np.zeros(4), np.array(3)])
def test_labels_must_be_one_word_or_integer_a_row(labels):
    with pytest.raises(ValueError, match="labels must be one integer or string"):
        partition.shards(labels, num_clients=2, seed=0)


def test_a_minimum_that_cannot_be_met_is_refused():
    with pytest.raises(ValueError, match="30 rows cannot give 4 clients 8 each"):
        partition.quantity(30, num_clients=4, concentration=1.0, seed=0, min_examples=8)


def test_feature_noise_grows_with_the_client():
    # 40,000 values a client: chi-square bounds at a two-sided false alarm of 1e-6;
    # the last assertion shows that a deviation wrong by 5 % is caught.
    client = np.repeat([30, 10, 20], 400)
    x = np.random.default_rng(0).normal(size=(1200, 10, 10))
    noise = partition.add_feature_noise(x, client, largest_stddev=0.5, seed=1) - x
    assert not noise[client == 10].any()

    def fits(values, stddev):
        square = (values / stddev) ** 2
        low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], square.size)
        return low < square.sum() < high

    assert fits(noise[client == 20], 0.25)
    assert fits(noise[client == 30], 0.5)
    assert not fits(noise[client == 30], 0.5 * 1.05)
    assert not fits(noise[client == 30], 0.5 / 1.05)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_feature_noise_keeps_shape_and_dtype_and_its_input(dtype, monkeypatch):
    x = np.ones((50, 3), dtype)
    client = np.arange(50) % 5
    noisy = partition.add_feature_noise(x, client, largest_stddev=1.0, seed=0)
    assert noisy.dtype == dtype
    assert noisy.shape == x.shape
    assert (x == 1).all()
    monkeypatch.setattr(partition, "_NOISE_BLOCK_ROWS", 7)
    blocks = partition.add_feature_noise(x, client, largest_stddev=1.0, seed=0)
    assert np.array_equal(blocks, noisy)


def test_feature_noise_of_one_client_is_none():
    x = np.ones((3, 2))
    out = partition.add_feature_noise(x, np.zeros(3, int), largest_stddev=1.0, seed=0)
    assert np.array_equal(out, x)


@pytest.mark.parametrize(
    ("x", "client", "message"),
    [
        (np.ones((3, 2), int), np.zeros(3, int), "x must be floating-point, got int"),
        (np.ones((3, 2)), np.zeros(2, int), r"client has shape \(2,\)"),
    ],
)
def test_feature_noise_refuses_bad_input(x, client, message):
    with pytest.raises(ValueError, match=message):
        partition.add_feature_noise(x, client, largest_stddev=1.0, seed=0)
