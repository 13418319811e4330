"""Ed25519 signatures (RFC 8032, section 5.1) in the standard library alone.

A vault verifies plans with it. Verification is strict: numbers and points must be
written in their one form, and keys of small order are refused, so that a signature
binds one key and one message. Signing is for the operator's own machine: Python's
integers do not take constant time.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Container

from jaxfed.vault._types import require

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)  # of -1
SEAL = b"jaxfed plan, signed 1\n"  # what a signature is for, too
_Point = tuple[int, int, int, int]  # X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z


def new_key() -> bytes:
    """Returns a new secret key, 32 bytes."""
    return secrets.token_bytes(32)


def public_key(secret: bytes) -> bytes:
    """Returns the public key of a secret one, 32 bytes."""
    return _written(_times(_expanded(secret)[0], _base()))


def sign(secret: bytes, message: bytes) -> bytes:
    """Returns the signature of a message, 64 bytes."""
    scalar, prefix = _expanded(secret)
    nonce = _number(hashlib.sha512(prefix + message).digest()) % _L
    first = _written(_times(nonce, _base()))
    public = _written(_times(scalar, _base()))
    challenge = _challenge(first, public, message)
    return first + ((nonce + challenge * scalar) % _L).to_bytes(32, "little")


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Returns whether a signature is one of this key for this message."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, first = _read(public), _read(signature[:32])
    scalar = _number(signature[32:])
    if key is None or first is None or scalar >= _L or _is_small(key):
        return False
    challenge = _challenge(signature[:32], public, message)
    return _equal(_times(scalar, _base()), _plus(first, _times(challenge, key)))


def sealed(secret: bytes, message: bytes) -> bytes:
    """Returns a message with its signature and the public key before it."""
    signed = SEAL + message
    return SEAL + public_key(secret) + sign(secret, signed) + message


def unsealed(data: bytes, signers: Container[bytes]) -> tuple[bytes, bytes]:
    """Returns the message that somebody sealed, and the public key of who did.

    Raises:
        PlanError: it is not sealed, or by nobody that is trusted.
    """
    size, start = len(SEAL), len(SEAL) + 96
    require(data[:size] == SEAL and len(data) > start, "it must be signed")
    public, signature = data[size : size + 32], data[size + 32 : start]
    require(public in signers, "nobody trusted signed it, but", public.hex())
    is_true = verify(public, SEAL + data[start:], signature)
    require(is_true, "its signature must be true")
    return data[start:], public


def _challenge(first: bytes, public: bytes, message: bytes) -> int:
    return _number(hashlib.sha512(first + public + message).digest()) % _L


def _expanded(secret: bytes) -> tuple[int, bytes]:
    if len(secret) != 32:
        raise ValueError(f"a secret key must be 32 bytes, got {len(secret)}.")
    digest = hashlib.sha512(secret).digest()
    scalar = _number(digest[:32]) & ((1 << 254) - 8) | (1 << 254)
    return scalar, digest[32:]


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _plus(p: _Point, q: _Point) -> _Point:
    """Adds two points (RFC 8032, section 5.1.4)."""
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    found = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            found = _plus(found, point)
        point = _plus(point, point)
        scalar >>= 1
    return found


def _equal(p: _Point, q: _Point) -> bool:
    same_x = (p[0] * q[2] - q[0] * p[2]) % _P == 0
    return same_x and (p[1] * q[2] - q[1] * p[2]) % _P == 0


def _is_small(point: _Point) -> bool:
    return _equal(_times(8, point), (0, 1, 1, 0))


def _x_of(y: int, sign: int) -> int | None:
    """Returns the x of a point, or None if there is none."""
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    return _P - x if x & 1 != sign else x


def _read(data: bytes) -> _Point | None:
    """Reads a point; None for what is not the one way to write one."""
    number = _number(data)
    sign, y = number >> 255, number & ((1 << 255) - 1)
    x = None if y >= _P else _x_of(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


def _written(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


@functools.lru_cache(maxsize=1)
def _base() -> _Point:
    y = 4 * pow(5, _P - 2, _P) % _P
    x = _x_of(y, 0)
    assert x is not None
    return x, y, 1, x * y % _P
