"""Rebuilds `rand_hie.npz` from the file `randhie.csv` of the statsmodels wheel.

Run `python jaxfed/data/packed/build_rand_hie.py --source randhie.csv`; see README.md
for where the file is found. Columns that never change within a person are stored
once a person. Whole numbers become the smallest integer type, all others float32;
missing values stay NaN. Needs NumPy only.
"""

import argparse
import csv
import hashlib
from pathlib import Path

import numpy as np

SOURCE_SHA256 = "fe64f3c8e987779daa6052dd756d9ce277e025330f5549126c7c2f6a3c9c5541"
FEATURES = (
    *("coins", "tookphys", "black", "linc", "xage", "female", "educdec", "time"),
    *("num", "mhi", "disea", "physlm", "mdeoff", "pioff", "child", "fchild"),
    *("lfam", "idp", "hlthg", "hlthf", "hlthp"),
)


def columns(source: Path) -> dict[str, np.ndarray]:
    """Reads the wanted columns as float64, in the file's order."""
    wanted = [*FEATURES, "mdvis", "year", "site", "plan", "zper"]
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name]) if row[name] else np.nan for row in rows])
        for name in wanted
    }


def smallest(values: np.ndarray) -> np.ndarray:
    """Returns the values in the smallest type that holds them (floats: float32)."""
    if not np.array_equal(values, np.round(values)):
        return values.astype(np.float32)
    return values.astype(np.min_scalar_type(int(values.max())))


def pack(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits the table into columns a person and columns a row.

    Raises:
        ValueError: the rows are not sorted by person and then by year.
    """
    person, year = table.pop("zper"), table["year"]
    same = person[1:] == person[:-1]
    if (person[1:] < person[:-1]).any() or (same & (year[1:] <= year[:-1])).any():
        raise ValueError("rows are not sorted by person and year; sort them first.")
    start = np.flatnonzero(np.concatenate([[True], ~same]))
    years = np.diff(np.append(start, len(person)))
    packed = {"person": smallest(person[start]), "rows": smallest(years)}
    for name, values in table.items():
        constant = np.array_equal(
            np.repeat(values[start], years), values, equal_nan=True
        )
        kind = "person_" if constant else "row_"
        packed[kind + name] = smallest(values[start] if constant else values)
    return packed


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
        "--output", type=Path, default=Path(__file__).with_name("rand_hie.npz")
    )
    arguments = parser.parse_args()
    found = hashlib.sha256(arguments.source.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(f"{arguments.source} has SHA-256 {found}, not the known file.")
    packed = pack(columns(arguments.source))
    np.savez_compressed(arguments.output, **packed)  # ty: ignore[invalid-argument-type]
    print("file  ", hashlib.sha256(arguments.output.read_bytes()).hexdigest())
    print("arrays", digest(packed))


if __name__ == "__main__":
    main()
