"""HKDF with SHA-256: independent keys from one secret.

Krawczyk and Eronen 2010, RFC 5869. Keys of different contexts are independent to
anybody who does not hold the secret.
"""

import hashlib
import hmac

_HASH_BYTES = 32


def derive(secret: bytes, *, salt: bytes, context: bytes, length: int) -> bytes:
    """Returns `length` bytes, at most 8,160 (extract and expand, section 2)."""
    assert 0 < length <= 255 * _HASH_BYTES
    extracted = _mac(salt or bytes(_HASH_BYTES), secret)
    block, output = b"", b""
    for number in range(1, -(-length // _HASH_BYTES) + 1):
        block = _mac(extracted, block + context + bytes([number]))
        output += block
    return output[:length]


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()
