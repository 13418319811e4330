"""Federated data: builders agree, selections keep rows whole, errors name clients."""

import dataclasses
import itertools

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfed.data import FederatedData


def assert_same(left, right):
    """Both hold the same clients, in the same order, with the same values."""
    assert left.client_ids.tolist() == right.client_ids.tolist()
    np.testing.assert_array_equal(left.offsets, right.offsets)
    for mine, its in ((left.arrays, right.arrays), (left.columns, right.columns)):
        assert set(mine) == set(its)
        for name in mine:
            assert mine[name].dtype == its[name].dtype
            np.testing.assert_array_equal(mine[name], its[name])


def numbered(sizes, ids=None, columns=None):
    """Clients whose every value says who owns it and which row it is."""
    ids = list(range(len(sizes))) if ids is None else ids
    clients = {}
    for position, (client, size) in enumerate(zip(ids, sizes, strict=True)):
        own = 1000 * position + np.arange(size)
        clients[client] = {"x": np.stack([own, -own], axis=1), "y": own % 7}
    return FederatedData.from_clients(clients, columns=columns)


@st.composite
def ragged(draw):
    """A mapping of clients, and the same rows in an arbitrary order."""
    words = st.text("abz-é 7", min_size=1, max_size=6)
    names = st.integers(-(2**40), 2**40) | st.integers(0, 9)
    kind = draw(st.sampled_from([words, names]))
    ids = sorted(draw(st.lists(kind, min_size=1, max_size=6, unique=True)))
    sizes = [draw(st.integers(1, 5)) for _ in ids]
    values = st.floats(width=32, allow_nan=False, allow_infinity=False)
    total = sum(sizes)
    flat = draw(st.lists(values, min_size=2 * total, max_size=2 * total))
    x = np.array(flat, np.float32).reshape(total, 2)
    y = np.array(draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    ends = np.cumsum(sizes)
    clients = {
        client: {"x": x[end - size : end], "y": y[end - size : end]}
        for client, size, end in zip(ids, sizes, ends, strict=True)
    }
    # an interleaving: whose next row comes next
    owners = draw(
        st.permutations([i for i, size in enumerate(sizes) for _ in range(size)])
    )
    return clients, owners


@given(ragged())
def test_the_builders_agree(problem):
    clients, owners = problem
    ids = list(clients)
    grouped = FederatedData.from_clients(clients)
    taken = {client: itertools.count() for client in ids}
    order = [(ids[i], next(taken[ids[i]])) for i in owners]
    mixed = FederatedData.from_arrays(
        {n: np.stack([clients[c][n][r] for c, r in order]) for n in ("x", "y")},
        client=[client for client, _ in order],
    )
    assert_same(mixed, grouped)
    parts = FederatedData(
        arrays={n: [row for c in ids for row in clients[c][n]] for n in ("x", "y")},
        offsets=[0, *itertools.accumulate(len(clients[c]["y"]) for c in ids)],
        client_ids=ids,
    )
    assert_same(parts, grouped)
    for client, arrays in clients.items():
        for name, array in grouped.client(client).items():
            np.testing.assert_array_equal(array, arrays[name])


def test_clients_keep_their_given_order():
    data = numbered((1, 2), ids=["z", "a"])
    assert data.client_ids.tolist() == ["z", "a"]
    assert data.client_sizes.tolist() == [1, 2]
    assert data.num_clients == 2
    assert data.num_examples == 3
    np.testing.assert_array_equal(data.client("a")["y"], [1000 % 7, 1001 % 7])
    sorted_ = FederatedData.from_arrays({"v": [0, 1, 2]}, client=["z", "a", "a"])
    assert sorted_.client_ids.tolist() == ["a", "z"]
    np.testing.assert_array_equal(sorted_.arrays["v"], [1, 2, 0])


def test_rows_that_are_grouped_already_are_not_copied():
    x = np.arange(6.0)
    data = FederatedData.from_arrays({"x": x}, client=[1, 1, 2, 2, 2, 5])
    assert np.shares_memory(data.arrays["x"], x)
    assert np.shares_memory(data.client(2)["x"], x)


@pytest.mark.parametrize(
    "ids",
    [
        [3, 1, 2],
        ["c", "a", "b"],
        np.array([3, 1, 2], np.uint8),
        np.array(["c", "a", "b"], object),
        np.array(["c", "a", "b"]),
        np.array([3, 1, 2], object),
        jnp.array([3, 1, 2]),
    ],
)
def test_ids_are_integers_or_strings_however_they_come(ids):
    data = FederatedData(
        arrays={"x": np.arange(3)}, offsets=[0, 1, 2, 3], client_ids=ids
    )
    assert data.client_ids.dtype.kind in "iuU"
    assert data.client_ids.tolist() == list(np.asarray(ids))
    assert data.select(data.client_ids[1:2]).arrays["x"].tolist() == [1]
    plain = data.client_ids.tolist()
    assert data.select([plain[2], plain[0]]).arrays["x"].tolist() == [2, 0]
    again = FederatedData.from_arrays({"x": np.arange(3)}, client=ids)
    assert again.client_ids.tolist() == sorted(plain)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([1.0, 2.0], "got float"),
        (np.array([1.0, 2.0]), "got float64"),
        ([None, "a"], "got NoneType and str"),
        ([1, "1"], "got int and str"),
        ([True, False], "got bool"),
        (np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"), "got datetime64"),
    ],
)
def test_other_ids_are_refused(ids, found):
    rule = f"must hold integers or strings, {found}"
    with pytest.raises(ValueError, match="client " + rule):
        FederatedData.from_arrays({"x": np.ones(2)}, client=ids)
    with pytest.raises(ValueError, match="client_ids " + rule):
        FederatedData(arrays={"x": np.ones(2)}, offsets=[0, 1, 2], client_ids=ids)


# ---- selections


@given(st.permutations(range(5)), st.integers(1, 5))
def test_selection_keeps_the_asked_order(order, count):
    data = numbered((3, 1, 4, 2, 5), ids=list("abcde"), columns={"n": [0, 1, 2, 3, 4]})
    wanted = ["abcde"[i] for i in order[:count]]
    chosen = data.select(iter(wanted))
    assert chosen.client_ids.tolist() == wanted
    assert chosen.columns["n"].tolist() == list(order[:count])
    for client in wanted:
        for name, array in data.client(client).items():
            np.testing.assert_array_equal(chosen.client(client)[name], array)
    assert chosen.num_examples == sum((3, 1, 4, 2, 5)[i] for i in order[:count])


def test_an_id_is_found_among_many():
    rng = np.random.default_rng(0)
    ids = rng.permutation(50_000)[:20_000]
    data = FederatedData(arrays={"x": ids}, offsets=np.arange(20_001), client_ids=ids)
    wanted = rng.choice(ids, 500, replace=False)
    np.testing.assert_array_equal(data.select(wanted).arrays["x"], wanted)


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 2**64 - 1))
def test_a_split_shares_no_client(count, test, seed):
    data = numbered(1 + np.arange(count) % 3, columns={"n": np.arange(count)})
    held_out = round(test * count)
    if held_out in (0, count):
        with pytest.raises(ValueError, match="both need at least one"):
            data.split_clients(test=test, seed=seed)
        return
    train, held = data.split_clients(test=test, seed=seed)
    assert held.num_clients == held_out
    assert {*train.client_ids}.isdisjoint(held.client_ids)
    assert sorted([*train.client_ids, *held.client_ids]) == list(range(count))
    # no row on both sides, none lost, and each with its owner
    assert {*train.arrays["x"][:, 0]}.isdisjoint(held.arrays["x"][:, 0])
    assert train.num_examples + held.num_examples == data.num_examples
    for side in (train, held):
        assert side.columns["n"].tolist() == side.client_ids.tolist()
        for client in side.client_ids:
            np.testing.assert_array_equal(
                side.client(client)["x"], data.client(client)["x"]
            )
    again, _ = data.split_clients(test=test, seed=seed)
    assert_same(again, train)


def test_the_seed_of_a_split_counts():
    data = numbered([1] * 40)
    held = [
        tuple(data.split_clients(test=0.5, seed=seed)[1].client_ids)
        for seed in (0, 1, 2**40, 2**40 + 1)
    ]
    assert len({*held}) == 4


def test_every_client_is_as_likely_to_be_held_out():
    # 400 splits of 10 clients, 3 held out: a count is binomial(400, 0.3). |z| < 5 for
    # all ten fails by chance with probability 6e-6; a client that is never held out
    # has z = -13, one always held out z = 30, and a split by position has both
    data = numbered([1] * 10)
    counts = np.zeros(10)
    for seed in range(400):
        counts[data.split_clients(test=0.3, seed=seed)[1].client_ids] += 1
    z = (counts - 120) / np.sqrt(400 * 0.3 * 0.7)
    assert np.abs(z).max() < 5


@given(st.lists(st.booleans(), min_size=9, max_size=9).filter(any))
def test_a_mask_keeps_rows_with_their_clients(mask):
    data = numbered((2, 3, 1, 3), ids=list("abcd"), columns={"n": [0, 1, 2, 3]})
    kept = data.where(mask)
    rows = iter(mask)
    expected = {}
    for client, size in zip("abcd", (2, 3, 1, 3), strict=True):
        own = [next(rows) for _ in range(size)]
        if any(own):
            expected[client] = data.client(client)["x"][own]
    assert kept.client_ids.tolist() == list(expected)
    assert kept.columns["n"].tolist() == ["abcd".index(c) for c in expected]
    for client, x in expected.items():
        np.testing.assert_array_equal(kept.client(client)["x"], x)
    named = dataclasses.replace(data, arrays={**data.arrays, "keep": np.array(mask)})
    assert_same(named.where("keep"), kept)


def test_an_empty_mask_leaves_nobody():
    with pytest.raises(ValueError, match="there are no clients; pass at least one"):
        numbered((2, 1)).where([False] * 3)


def test_columns_of_any_sequence_can_be_selected():
    data = numbered((2, 1), ids=["a", "b"], columns={"ward": ["x", "y"]})
    assert isinstance(data.columns["ward"], np.ndarray)
    assert data.select(["b"]).columns["ward"].tolist() == ["y"]


# ---- facts


def test_statistics_equal_a_slow_loop():
    data = numbered((5, 1, 2, 8))
    facts = data.statistics()
    sizes = [5, 1, 2, 8]
    assert facts["num_clients"] == 4
    assert facts["num_examples"] == 16
    assert facts["sizes"] == {"minimum": 1, "median": 3.5, "mean": 4.0, "maximum": 8}
    labels = sorted({int(v) for v in data.arrays["y"]})
    assert facts["labels"].tolist() == labels
    for i, client in enumerate(data.client_ids):
        own = data.client(client)["y"].tolist()
        assert facts["label_counts"][i].tolist() == [own.count(v) for v in labels]
    assert facts["label_counts"].sum(axis=1).tolist() == sizes


def test_only_integer_labels_are_counted():
    data = FederatedData.from_clients(
        {"a": {"f": [0.5, 1.0], "b": [True, True], "m": [[1, 2], [3, 4]]}}
    )
    for label in ("f", "m", "absent"):
        assert "labels" not in data.statistics(label)
    facts = data.statistics("b")
    assert facts["labels"].tolist() == [True]
    assert facts["label_counts"].tolist() == [[2]]


def test_it_prints_sizes_and_arrays():
    assert repr(numbered((5, 1, 1200))) == (
        "FederatedData(3 clients, 1,206 examples, 1 to 1200 a client; "
        "x: int64[2], y: int64[])"
    )


def test_it_cannot_be_changed():
    data = numbered((2, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.offsets = np.array([0, 3])


# ---- refusals


def build(**changes):
    parts = {
        "arrays": {"x": np.arange(6.0).reshape(6, 1), "y": np.arange(6)},
        "offsets": [0, 1, 3, 6],
        "client_ids": ["anna", "bert", "cleo"],
    }
    return FederatedData(**(parts | changes))


def with_bad(row, value, dtype=np.float64):
    x = np.ones((6, 2), dtype)
    x[row, 1] = value
    return {"x": x}


@pytest.mark.parametrize(
    ("row", "owner", "within"),
    [(0, "anna", 0), (1, "bert", 0), (2, "bert", 1), (3, "cleo", 0), (5, "cleo", 2)],
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_a_bad_value_names_its_owner_and_row(row, owner, within, value, dtype):
    with pytest.raises(
        ValueError, match=f"array 'x' of client '{owner}' has NaN .* its row {within};"
    ):
        build(arrays=with_bad(row, value, dtype))


def test_a_bad_value_is_found_past_the_first_block():
    count = 3 * (1 << 16)
    x = np.zeros(count, np.float32)
    x[-1] = np.nan
    with pytest.raises(ValueError, match=r"of client 'b' has NaN .* its row 65535;"):
        FederatedData(
            arrays={"x": x}, offsets=[0, 2 << 16, count], client_ids=["a", "b"]
        )


def two(first, second):
    return FederatedData.from_clients({"anna": first, "bert": second})


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(offsets=[0, 1, 1, 6]), "client 'bert' has no examples"),
        (lambda: build(offsets=[0, 3, 1, 6]), "client 'bert' has no examples"),
        (lambda: build(offsets=[0, 1, 3, 7]), "array 'x' has 6 rows but .* own 7"),
        (lambda: build(offsets=[1, 2, 3, 6]), "with 4 entries from 0"),
        (lambda: build(offsets=[0, 6]), "with 4 entries from 0, got shape"),
        (lambda: build(client_ids=["anna", "bert", "anna"]), "'anna' occurs more"),
        (lambda: build(columns={"w": [1, 2]}), "'w' has 2 values for 3 clients"),
        (lambda: build(columns=[1, 2, 3]), "columns must be a Mapping, got list"),
        (lambda: build(arrays={}), "arrays is empty; pass at least one array"),
        (lambda: build(arrays={"x": 3}), "array 'x' must have one row per example"),
        (
            lambda: build(arrays={"x": np.array(list("abcdef"))}),
            "dtype <U1 .client 'anna' and on.; only numbers .* encode words",
        ),
        (
            lambda: build(arrays={"x": np.array([None] * 6)}),
            "array 'x' has dtype object .client 'anna'",
        ),
        (
            lambda: build(arrays={"x": np.zeros(6, [("a", "f4"), ("b", "f4")])}),
            r"array 'x' has dtype \[\('a'",
        ),
        (
            lambda: build(arrays={"x": np.zeros(6, complex)}),
            "array 'x' has dtype complex128",
        ),
        (
            lambda: two({"x": X}, {"z": X}),
            r"client 'bert' has arrays \['z'\] but client 'anna' has \['x'\]",
        ),
        (
            lambda: two({"x": X}, {"x": X[:, :1]}),
            r"rows of shape \(1,\) for client 'bert' but \(3,\) for client 'anna'",
        ),
        (
            lambda: two({"x": X}, {"x": X.astype(int)}),
            r"is int64 for client 'bert' but float32 for client 'anna'; .*astype",
        ),
        (
            lambda: two({"x": X, "y": [0, 1]}, {"x": X, "y": [0]}),
            "client 'bert' has arrays of different lengths {'x': 2, 'y': 1}",
        ),
        (lambda: two({"x": X}, {}), "client 'bert' must be a mapping of arrays"),
        (lambda: two({"x": X}, [X]), "client 'bert' must be a mapping .* got list"),
        (lambda: two({"x": X}, {"x": 3.0}), "array 'x' of client 'bert' must have one"),
        (lambda: two({"x": X}, {"x": X[:0]}), "client 'bert' has no examples"),
        (lambda: build().client("dora"), "there is no client 'dora'; .* like 'anna'"),
        (lambda: build().select(["anna", "anna"]), "'anna' occurs more than once"),
        (lambda: build().select([]), "there are no clients"),
        (lambda: build().select([None]), "there is no client None"),
        (lambda: build().select(3), r"must be a list of ids, got 3; pass \[3\]"),
    ],
)
def test_a_refusal_names_the_client_or_the_array(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


# ---- extension dtypes and files


def extension_data():
    values = np.array([[0.1, 2.0], [3.0, -4.5], [1e30, 0.0]], ml_dtypes.bfloat16)
    return FederatedData.from_arrays(
        {"x": values, "y": np.arange(3, dtype=np.int8)}, client=["b", "a", "a"]
    )


def test_bfloat16_is_kept_as_it_is():
    data = extension_data()
    assert data.arrays["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        data.client("b")["x"].astype(np.float64),
        np.array([[0.1, 2.0]], ml_dtypes.bfloat16).astype(np.float64),
    )
    assert data.select(["b"]).arrays["x"].dtype == ml_dtypes.bfloat16
    assert jnp.asarray(data.arrays["x"]).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "data",
    [
        numbered((3, 1, 2), ids=["é", "b", "a"], columns={"ward-1": ["x", "y", "x"]}),
        numbered((3, 1, 2), ids=[2**40, -1, 7], columns={"n_1": [0.5, 1.5, 2.5]}),
        extension_data(),
    ],
    ids=["words", "integers", "bfloat16"],
)
def test_what_is_saved_is_opened_memory_mapped(data, tmp_path):
    data.save(tmp_path / "deep" / "data")
    opened = FederatedData.open(str(tmp_path / "deep" / "data"))
    assert_same(opened, data)
    for name, array in opened.arrays.items():
        assert isinstance(array, np.memmap), name
        assert isinstance(opened.client(data.client_ids[0])[name], np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    chosen = opened.select(data.client_ids[::-1])
    assert_same(chosen, data.select(data.client_ids[::-1]))
    chosen.save(tmp_path / "again")
    assert_same(FederatedData.open(tmp_path / "again"), chosen)


def test_grouped_rows_stay_memory_mapped(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5.0))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = FederatedData.from_arrays({"x": mapped}, client=[0, 0, 1, 2, 2])
    assert isinstance(data.arrays["x"], np.memmap)


def test_a_directory_with_anything_in_it_is_refused(tmp_path):
    (tmp_path / "array_z.npy").touch()
    with pytest.raises(ValueError, match="not empty; save into a new directory"):
        numbered((1,)).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["array_z.npy"]


def test_an_unfinished_copy_is_refused(tmp_path):
    numbered((2, 1)).save(tmp_path / "data")
    (tmp_path / "data" / "offsets.npy").unlink()
    with pytest.raises(ValueError, match=r"offsets\.npy is missing"):
        FederatedData.open(tmp_path / "data")


@pytest.mark.parametrize("name", ["../x", "a b", "a.b", ""])
def test_a_name_that_is_no_file_name_is_refused_before_anything_is_written(
    name, tmp_path
):
    data = FederatedData.from_clients({"a": {"x": [1.0], name: [1.0]}})
    with pytest.raises(ValueError, match="cannot be a file name; use letters"):
        data.save(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_no_pickle_is_ever_read(tmp_path):
    numbered((2, 1)).save(tmp_path / "data")
    ids = np.array([{"evil": 1}, {"code": 2}], object)
    np.save(tmp_path / "data" / "client_ids.npy", ids, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        FederatedData.open(tmp_path / "data")
