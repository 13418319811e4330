"""What federated data must be, and the messages for what it is not."""

import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxfed.data._federated_data import FederatedData

_ALLOWED_KINDS = "biuf"
_FINITE_CHECK_ROWS = 1 << 16


def array_names(clients: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    first, names = None, None
    for client, arrays in clients.items():
        if not isinstance(arrays, Mapping) or not arrays:
            raise ValueError(
                f"client {client!r} must be a mapping of arrays, got "
                f'{type(arrays).__name__}; pass {{"x": array, "y": array}}.'
            )
        if names is None:
            first, names = client, list(arrays)
        elif set(arrays) != set(names):
            raise ValueError(
                f"client {client!r} has arrays {sorted(arrays)} but client "
                f"{first!r} has {sorted(names)}; give every client the same names."
            )
    return names or []


def rows(values: Any, name: str) -> np.ndarray:
    try:
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot become an array: {error}; give all rows one shape."
        ) from error
    if array.ndim == 0:
        raise ValueError(
            f"{name} must have one row per example, got a single value; wrap it in "
            "a list."
        )
    return array


def ids(values: Any, name: str) -> np.ndarray:
    """Returns client ids as a vector of integers or of strings."""
    is_typed = hasattr(values, "dtype")
    array = rows(np.asarray(values) if is_typed else np.asarray(values, object), name)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must hold one id each, got shape {array.shape}; pass a "
            "one-dimensional array."
        )
    if array.dtype.kind == "O":
        kinds = sorted({type(value).__name__ for value in array})
        if all(isinstance(value, str) for value in array):
            array = array.astype(str)
        elif all(isinstance(value, numbers.Integral) for value in array):
            array = np.array(array.tolist())
    else:
        kinds = [str(array.dtype)]
    if array.dtype.kind not in "iuU":
        raise ValueError(
            f"{name} must hold integers or strings, got {' and '.join(kinds)}; convert "
            "them, for example with .astype(int) once none is missing."
        )
    return array


def shown(client_id: Any) -> str:
    """Returns an id as its owner would write it: 'a', not np.str_('a')."""
    return repr(client_id.item() if isinstance(client_id, np.generic) else client_id)


def concatenate(name: str, parts: list[np.ndarray], ids: list[Any]) -> np.ndarray:
    for client, part in zip(ids, parts, strict=True):
        if part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"array {name!r} has rows of shape {part.shape[1:]} for client "
                f"{client!r} but {parts[0].shape[1:]} for client {ids[0]!r}; give "
                "all clients one shape."
            )
        if part.dtype != parts[0].dtype:
            raise ValueError(
                f"array {name!r} is {part.dtype} for client {client!r} but "
                f"{parts[0].dtype} for client {ids[0]!r}; convert with .astype()."
            )
    return np.concatenate(parts)


def validate(data: "FederatedData") -> None:
    offsets, ids = data.offsets, data.client_ids
    if not data.arrays:
        raise ValueError("arrays is empty; pass at least one array.")
    if offsets.ndim != 1 or len(offsets) != len(ids) + 1 or offsets[0] != 0:
        raise ValueError(
            f"offsets must be one-dimensional with {len(ids) + 1} entries from 0, "
            f"got shape {offsets.shape}; client i owns rows offsets[i]:offsets[i+1]."
        )
    if len(ids) == 0:
        raise ValueError("there are no clients; pass at least one.")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        raise ValueError(
            f"client id {shown(unique[counts > 1][0])} occurs more than once; merge "
            "its rows or give it two ids."
        )
    sizes = np.diff(offsets)
    if (sizes <= 0).any():
        raise ValueError(
            f"client {shown(ids[sizes <= 0][0])} has no examples; leave it out or "
            "give it at least one row."
        )
    for name, column in data.columns.items():
        if len(column) != len(ids):
            raise ValueError(
                f"column {name!r} has {len(column)} values for {len(ids)} clients; "
                "give one value per client."
            )
    for name, array in data.arrays.items():
        _validate_array(name, array, data)


def _validate_array(name: str, array: np.ndarray, data: "FederatedData") -> None:
    total = int(data.offsets[-1])
    if len(array) != total:
        raise ValueError(
            f"array {name!r} has {len(array)} rows but the clients own {total}; give "
            "every example one row in each array."
        )
    # bfloat16 and its like, which JAX understands; structured rows it does not
    is_extension = array.dtype.kind == "V" and array.dtype.type is not np.void
    if array.dtype.kind not in _ALLOWED_KINDS and not is_extension:
        raise ValueError(
            f"array {name!r} has dtype {array.dtype} (client "
            f"{shown(data.client_ids[0])} and on); only numbers and bools can be "
            "trained on: encode words as integers first."
        )
    if array.dtype.kind == "f" or is_extension:
        for start in range(0, total, _FINITE_CHECK_ROWS):
            block = np.asarray(array[start : start + _FINITE_CHECK_ROWS])
            if is_extension:
                block = block.astype(np.float32)
            bad = ~np.isfinite(block).reshape(len(block), -1).all(axis=1)
            if bad.any():
                row = start + int(np.argmax(bad))
                owner = int(np.searchsorted(data.offsets, row, side="right")) - 1
                raise ValueError(
                    f"array {name!r} of client {shown(data.client_ids[owner])} has "
                    f"NaN or infinity in its row {row - int(data.offsets[owner])}; "
                    "drop the row or fill the value."
                )
