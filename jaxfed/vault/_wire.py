"""Arrays on the wire: safetensors, written and read with suspicion.

The format is that of the safetensors library: eight bytes for the length of a header,
the header as JSON, the arrays behind it without gaps. A reader knows beforehand which
arrays must come, of which types; anything else is refused before memory is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxfed.vault._errors import WireError
from jaxfed.vault._numpy import np
from jaxfed.vault._types import Type

MOST_HEADER = 1 << 16
_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
}
_METADATA = "__metadata__"


def encode(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns arrays and a few words as bytes; the same for the same."""
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    parts, start = [], 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        little = array.astype(array.dtype.newbyteorder("<"))
        data = np.ascontiguousarray(little).tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, start + len(data)],
        }
        start += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def size_of(expected: Mapping[str, Type]) -> int:
    """Returns how many bytes such arrays take at most, header included."""
    return 8 + MOST_HEADER + sum(one.bytes for one in expected.values())


def decode(
    data: bytes, expected: Mapping[str, Type]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads arrays of known names and types; they share the memory of `data`.

    Args:
        data: what came.
        expected: which arrays must be there, and no other.

    Returns:
        The arrays, and the words beside them.

    Raises:
        WireError: it is anything else, or a float is not finite.
    """
    length = int.from_bytes(data[:8], "little") if len(data) >= 8 else MOST_HEADER + 1
    _require(length <= MOST_HEADER and 8 + length <= len(data), "a header is cut off")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise WireError("a header must be JSON") from None
    _require(type(header) is dict, "a header must be named")
    metadata = header.pop(_METADATA, {})
    words = type(metadata) is dict and all(type(v) is str for v in metadata.values())
    _require(words, "metadata must be words")
    _require(set(header) == set(expected), "other arrays came than were asked for")
    found, start = {}, 0
    for name in sorted(expected):
        one = expected[name]
        wanted = {
            "dtype": _NAMES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [start, start + one.bytes],
        }
        _require(header[name] == wanted, "an array has another type or place")
        found[name] = _array(data, 8 + length + start, one)
        start += one.bytes
    _require(8 + length + start == len(data), "there are more bytes, or fewer")
    return found, metadata


def _array(data: bytes, start: int, one: Type) -> np.ndarray:
    _require(start + one.bytes <= len(data), "there are fewer bytes")
    dtype = np.dtype(one.dtype).newbyteorder("<")
    found = np.frombuffer(data, dtype, one.size, start).reshape(one.shape)
    if one.is_float:
        _require(bool(np.isfinite(found).all()), "a number is not finite")
    if one.dtype == "bool":
        _require(bool((found.view(np.uint8) <= 1).all()), "a truth value is 0 or 1")
    return found


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise WireError(what)
