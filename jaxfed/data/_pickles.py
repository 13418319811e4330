"""Arrays out of pickles, without running what a pickle may ask for."""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np


def verified(file: Path, sha256: str) -> bytes:
    """Returns the content of a file whose SHA-256 is the given one."""
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{file} has SHA-256 {digest}, expected {sha256}; it is a pickle, so pass "
            "the known version of the file or the digest of one that you trust."
        )
    return content


class _Part:
    """Stands for any pandas class of the pickle; only holds what it is given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def table(self) -> dict[str, np.ndarray]:
        """Returns the columns, this part being a data frame."""
        blocks, axes = self.state["_mgr"].arguments
        names = axes[0].arguments[1]["data"]
        columns = {}
        for block in blocks:
            values, places, _ = block.arguments
            for row, column in zip(values, np.arange(len(names))[places], strict=True):
                columns[str(names[column])] = row
        return columns


class ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays and `_Part`s; every other name is refused."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        known = _KNOWN_NAMES.get(f"{module}.{name}".replace("._core.", ".core."))
        if known is None:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}, which is not an array; use a "
                "file that you trust in another way."
            )
        return known


def _dtype(code: Any, align: Any = False, copy: Any = False) -> np.dtype:
    return np.dtype(code, align=bool(align), copy=bool(copy))


def _from_buffer(
    buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]
) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unknown encoding {encoding!r} in the pickle.")
    return text.encode("latin1")


_KNOWN_NAMES: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
    "numpy.core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _latin1,
    "builtins.slice": slice,
    "pandas.core.frame.DataFrame": _Part,
    "pandas.core.internals.managers.BlockManager": _Part,
    "pandas._libs.internals._unpickle_block": _Part,
    "pandas.core.indexes.base._new_Index": _Part,
    "pandas.core.indexes.base.Index": _Part,
    "pandas.core.indexes.range.RangeIndex": _Part,
}
