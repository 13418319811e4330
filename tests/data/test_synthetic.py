"""Synthetic sets against their sources, sample by sample, and their laws."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxfed.data import synthetic

ALL = {
    "fedprox": lambda s: synthetic.fedprox_synthetic(0.5, 0.5, seed=s, num_clients=4),
    "fedprox_iid": lambda s: synthetic.fedprox_synthetic_iid(seed=s, num_clients=4),
    "leaf": lambda s: synthetic.leaf_synthetic(seed=s, num_clients=9),
    "fcube": lambda s: synthetic.fcube(seed=s, rows_per_client=20, num_test=30),
}


@pytest.mark.parametrize("name", ALL)
def test_arrays_seeds_and_the_global_state(name):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = ALL[name](1), ALL[name](1), ALL[name](2)
    assert {n: a.dtype for n, a in first.arrays.items()} == {
        "x": np.float32,
        "y": np.int32,
        "is_test": bool,
    }
    assert np.array_equal(first.client_ids, np.arange(first.num_clients))
    for array in first.arrays:
        assert np.array_equal(first.arrays[array], again.arrays[array])
    assert not np.array_equal(first.arrays["x"][:5], other.arrays["x"][:5])
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def slow_fedprox(alpha, beta, seed, num_clients, sizes, shared):
    """The published generator, one sample and one feature at a time."""
    generator = np.random.default_rng(seed)
    if sizes is None:
        sizes = [int(v) + 50 for v in generator.lognormal(4, 2, num_clients)]
    if shared:
        weights, bias = generator.normal(size=(60, 10)), generator.normal(size=10)
    else:
        u = [generator.normal(0, alpha) for _ in range(num_clients)]
        b = [generator.normal(0, beta) for _ in range(num_clients)]
    clients = []
    for k in range(num_clients):
        center = np.zeros(60)
        if not shared:
            center = [b[k] + generator.normal() for _ in range(60)]
            weights = [
                [u[k] + generator.normal() for _ in range(10)] for _ in range(60)
            ]
            bias = [u[k] + generator.normal() for _ in range(10)]
        rows, labels = [], []
        for _ in range(sizes[k]):
            noise = [generator.normal() for _ in range(60)]
            x = [center[j] + math.sqrt((j + 1) ** -1.2) * noise[j] for j in range(60)]
            scores = [
                sum(x[j] * weights[j][c] for j in range(60)) + bias[c]
                for c in range(10)
            ]
            rows.append(x)
            labels.append(max(range(10), key=scores.__getitem__))
        train = int(0.9 * sizes[k])
        clients.append((rows, labels, [i >= train for i in range(sizes[k])]))
    return clients


def check_clients(found, expected):
    assert found.num_clients == len(expected)
    for k, (x, y, is_test) in enumerate(expected):
        arrays = found.client(k)
        np.testing.assert_allclose(arrays["x"], np.array(x), rtol=2e-6, atol=2e-6)
        assert arrays["y"].tolist() == y
        assert arrays["is_test"].tolist() == is_test


@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.5, 2)])
def test_fedprox_is_the_published_generator(alpha, beta):
    sizes = [2, 11, 20]
    found = synthetic.fedprox_synthetic(alpha, beta, seed=7, num_clients=3, sizes=sizes)
    check_clients(found, slow_fedprox(alpha, beta, 7, 3, sizes, False))


def test_fedprox_iid_is_the_published_generator():
    found = synthetic.fedprox_synthetic_iid(seed=8, num_clients=2, sizes=[5, 9])
    check_clients(found, slow_fedprox(0, 0, 8, 2, [5, 9], True))


def test_fedprox_draws_the_published_sizes():
    found = synthetic.fedprox_synthetic(0, 0, seed=0, num_clients=3)
    expected = slow_fedprox(0, 0, 0, 3, None, False)
    assert found.client_sizes.tolist() == [len(y) for _, y, _ in expected]


def test_fedprox_default_has_30_clients_of_60_features_and_10_labels():
    found = synthetic.fedprox_synthetic(1, 1, seed=0)
    assert found.num_clients == 30
    assert found.arrays["x"].shape[1:] == (60,)
    assert found.client_sizes.min() >= 50
    assert set(found.arrays["y"]) <= set(range(10))


def test_fedprox_beta_is_a_standard_deviation():
    # The mean of a client's two rows over 60 features is normal with variance
    # beta**2 + (60 + sum_j j**-1.2 / 2) / 60**2. 3,000 clients: false alarm 1e-6, and
    # beta taken as a variance, or 10 % off, falls outside.
    beta, clients = 2.0, 3000
    found = synthetic.fedprox_synthetic(
        0, beta, seed=1, num_clients=clients, sizes=[2] * clients
    )
    means = found.arrays["x"].astype(np.float64).reshape(clients, -1).mean(1)
    noise = (60 + sum(j**-1.2 for j in range(1, 61)) / 2) / 3600

    def fits(variance):
        low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], clients)
        return low < (means**2).sum() / (variance + noise) < high

    assert fits(beta**2)
    assert not fits(beta)
    assert not fits((1.1 * beta) ** 2)
    assert not fits((0.9 * beta) ** 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1}, "alpha must be >= 0"),
        ({"beta": -0.5}, "beta must be >= 0"),
        ({"num_clients": 0}, "num_clients must be an integer >= 1"),
        ({"sizes": [5, 5]}, r"sizes must be 3 integers >= 2, got \[5, 5\]"),
        ({"sizes": [5, 1, 5]}, "a training and a test row"),
        ({"sizes": [5.0, 5, 5]}, "sizes must be 3 integers"),
        ({"seed": None}, "seed must be an integer"),
    ],
)
def test_fedprox_refuses_bad_arguments(change, message):
    settings = {"alpha": 1, "beta": 1, "seed": 0, "num_clients": 3} | change
    with pytest.raises(ValueError, match=message):
        synthetic.fedprox_synthetic(**settings)


def slow_leaf(seed, tasks, classes, dimensions, chances):
    """The published generator; its softmax sums over the samples of a task."""
    generator = np.random.default_rng(seed)
    sizes = [min(int(v) + 5, 1000) for v in generator.lognormal(3, 2, tasks)]
    s = len(chances)
    basis = generator.normal(size=(dimensions + 1, classes, s))
    means = []
    for _ in range(s):
        center = generator.normal()
        means.append([center + generator.normal() for _ in range(s)])
    clusters = generator.choice(s, tasks, p=chances).tolist()
    clients = []
    for size, cluster in zip(sizes, clusters, strict=True):
        b = generator.normal()
        center = [b + generator.normal() for _ in range(dimensions)]
        x = [
            [
                center[j] + (j + 1) ** -0.6 * generator.normal()
                for j in range(dimensions)
            ]
            for _ in range(size)
        ]
        u = [means[cluster][i] + 0.1 * generator.normal() for i in range(s)]
        scores = np.zeros((size, classes))
        for i in range(size):
            for c in range(classes):
                for j, value in enumerate([1.0, *x[i]]):
                    scores[i, c] += value * sum(basis[j, c, k] * u[k] for k in range(s))
        for i in range(size):
            for c in range(classes):
                scores[i, c] += 0.1 * generator.normal()
        odds = np.exp(scores)
        y = [int(np.argmax(odds[i] / odds.sum(axis=0))) for i in range(size)]
        train = int(0.6 * size)
        clients.append((x, y, [i >= train for i in range(size)]))
    return clients, clusters


@pytest.mark.parametrize("chances", [(1.0,), (0.3, 0.7)])
def test_leaf_is_the_published_generator(chances):
    # the seed is one with small tasks, which keeps the slow loop fast
    found = synthetic.leaf_synthetic(
        seed=3,
        num_clients=4,
        num_classes=3,
        num_dimensions=4,
        cluster_probabilities=chances,
    )
    expected, clusters = slow_leaf(3, 4, 3, 4, chances)
    check_clients(found, expected)
    assert found.columns["cluster"].tolist() == clusters


def test_leaf_default_has_1000_tasks_of_60_features_and_5_labels():
    found = synthetic.leaf_synthetic(seed=0)
    assert found.num_clients == 1000
    assert found.arrays["x"].shape[1:] == (60,)
    assert set(found.arrays["y"]) == set(range(5))
    assert found.client_sizes.min() >= 5
    assert found.client_sizes.max() == 1000
    # sizes are int(LogNormal(3, 2)) + 5: the median of 1,000 is near e**3 + 5
    assert 20 < np.median(found.client_sizes) < 32


def test_leaf_labels_do_not_overflow():
    small = np.array([[2.0, 1.0], [0.5, 3.0]])
    odds = np.exp(small)
    expected = np.argmax(odds / odds.sum(0), axis=1)
    assert np.array_equal(synthetic._leaf_labels(small + 5000), expected)


@pytest.mark.parametrize("chances", [(0.5, 0.4), (1.5, -0.5), ()])
def test_leaf_refuses_probabilities_that_are_none(chances):
    with pytest.raises(ValueError, match="cluster_probabilities must sum to 1"):
        synthetic.leaf_synthetic(seed=0, cluster_probabilities=chances)


def test_fcube_is_the_published_cube():
    found = synthetic.fcube(seed=0)
    x, y, is_test = (found.arrays[name] for name in ("x", "y", "is_test"))
    assert found.num_clients == 4
    assert (~is_test).sum() == 4000
    assert is_test.sum() == 1000
    assert np.abs(x).max() <= 1
    owner = np.repeat(np.arange(4), found.client_sizes)
    signs = set()
    for client, point, label in zip(owner, x, y, strict=True):
        assert label == (0 if point[0] > 0 else 1)
        mirrored = point if label == 0 else -point
        assert client == 2 * int(mirrored[1] < 0) + int(mirrored[2] < 0)
        signs.add((client, *(point > 0)))
    assert len(signs) == 8  # two corners a client
    for client in range(4):
        own = found.client(client)
        train = own["y"][~own["is_test"]]
        assert train.tolist() == [0, 1] * 500


def test_fcube_is_uniform_in_its_corners():
    # Kolmogorov-Smirnov on 12,000 training and 3,000 test coordinates: false alarm
    # 1e-6 each; a cube 5 % too small would be caught.
    found = synthetic.fcube(seed=1)
    train = np.abs(found.arrays["x"][~found.arrays["is_test"]]).ravel()
    test = (found.arrays["x"][found.arrays["is_test"]].ravel() + 1) / 2
    assert stats.kstest(train, "uniform").pvalue > 1e-6
    assert stats.kstest(test, "uniform").pvalue > 1e-6
    assert stats.kstest(0.95 * train, "uniform").pvalue < 1e-6
    assert stats.kstest(0.95 * test, "uniform").pvalue < 1e-6


def test_fcube_takes_other_sizes():
    found = synthetic.fcube(seed=0, rows_per_client=3, num_test=7)
    assert found.num_examples == 19
    with pytest.raises(ValueError, match="rows_per_client must be an integer >= 1"):
        synthetic.fcube(seed=0, rows_per_client=0)
