"""Federated data on disk: a directory of `.npy` files, opened memory-mapped."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxfed.data._federated_data import FederatedData

_ARRAY, _COLUMN = "array_", "column_"
_EXTENSION = "."  # array_x.bfloat16.npy: a dtype that the .npy format cannot name


def save_parts(data: "FederatedData", directory: Any) -> None:
    """Writes the parts of `data`; refuses a directory that already holds any.

    `offsets.npy` is written last: a directory without it is an unfinished copy.
    """
    folder = Path(directory)
    parts = {
        _ARRAY + _safe(name) + _suffix(array): array
        for name, array in data.arrays.items()
    } | {_COLUMN + _safe(name): column for name, column in data.columns.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(
            f"{folder} is not empty; save into a new directory so that no older "
            "array is mixed in."
        )
    for stem, part in parts.items():
        np.save(folder / f"{stem}.npy", part, allow_pickle=False)
    np.save(folder / "client_ids.npy", data.client_ids, allow_pickle=False)
    np.save(folder / "offsets.npy", data.offsets, allow_pickle=False)


def open_parts(directory: Any) -> dict[str, Any]:
    """Returns the constructor's arguments; arrays are memory-mapped, read-only."""
    folder = Path(directory)
    if not (folder / "offsets.npy").is_file():
        raise ValueError(
            f"{folder} holds no complete federated data (offsets.npy is missing); "
            "write it with data.save(directory)."
        )

    def load(file: Path, mode: Any = None) -> np.ndarray:
        array = np.load(file, mmap_mode=mode, allow_pickle=False)
        extension = file.stem.partition(_EXTENSION)[2]
        return array.view(jnp.dtype(extension)) if extension else array

    return {
        "arrays": {
            file.stem.partition(_EXTENSION)[0].removeprefix(_ARRAY): load(file, "r")
            for file in sorted(folder.glob(f"{_ARRAY}*.npy"))
        },
        "columns": {
            file.stem.removeprefix(_COLUMN): load(file)
            for file in sorted(folder.glob(f"{_COLUMN}*.npy"))
        },
        "offsets": load(folder / "offsets.npy"),
        "client_ids": load(folder / "client_ids.npy"),
    }


def _suffix(array: np.ndarray) -> str:
    return f"{_EXTENSION}{array.dtype}" if array.dtype.kind == "V" else ""


def _safe(name: str) -> str:
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(
            f"array name {name!r} cannot be a file name; use letters, digits, '_' "
            "and '-' only."
        )
    return name
