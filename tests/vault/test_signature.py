"""Ed25519 as RFC 8032 has it, and nothing that merely looks like it."""

import pytest

from jaxfed.vault import _signature as signature
from jaxfed.vault._errors import PlanError

# RFC 8032, section 7.1: secret, public, message, signature
VECTORS = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e"
        "458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290"
        "ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)


@pytest.mark.parametrize("vector", VECTORS)
def test_the_vectors_of_the_standard(vector):
    secret, public, message, signed = map(bytes.fromhex, vector)
    assert signature.public_key(secret) == public
    assert signature.sign(secret, message) == signed
    assert signature.verify(public, message, signed)


def test_any_other_bit_is_refused():
    secret = signature.new_key()
    public, message = signature.public_key(secret), b"a plan"
    signed = signature.sign(secret, message)
    assert signature.verify(public, message, signed)
    for place in range(0, 64 * 8, 29):
        changed = bytearray(signed)
        changed[place // 8] ^= 1 << place % 8
        assert not signature.verify(public, message, bytes(changed))
    for place in range(0, 32 * 8, 29):
        changed = bytearray(public)
        changed[place // 8] ^= 1 << place % 8
        assert not signature.verify(bytes(changed), message, signed)
    assert not signature.verify(public, b"another plan", signed)
    assert not signature.verify(public, message, signed[:-1])


def test_the_same_signature_in_another_form_is_refused():
    secret = signature.new_key()
    public, message = signature.public_key(secret), b"a plan"
    signed = signature.sign(secret, message)
    scalar = int.from_bytes(signed[32:], "little") + signature._L
    assert not signature.verify(
        public, message, signed[:32] + scalar.to_bytes(32, "little")
    )


@pytest.mark.parametrize(
    "public",
    [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ],
)
def test_keys_that_sign_everything_are_refused(public):
    """Points of small order, and numbers that are written in a second way."""
    for signed in (bytes(64), bytes.fromhex(public) + bytes(32)):
        assert not signature.verify(bytes.fromhex(public), b"any", signed)


def test_only_what_a_trusted_key_sealed_is_opened():
    secret, other = bytes(range(32)), bytes(range(1, 33))
    public = signature.public_key(secret)
    sealed = signature.sealed(secret, b"plan")
    assert signature.unsealed(sealed, [public]) == (b"plan", public)
    assert sealed == signature.sealed(secret, b"plan")
    for trusted in ([], [signature.public_key(other)]):
        with pytest.raises(PlanError, match="nobody trusted"):
            signature.unsealed(sealed, trusted)
    for place in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(PlanError):
            signature.unsealed(bytes(changed), [public])
    for cut in (b"", sealed[:50], sealed[:-4]):
        with pytest.raises(PlanError):
            signature.unsealed(cut, [public])
