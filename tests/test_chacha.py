"""ChaCha20 gives the words of RFC 8439, and is a JAX generator like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import KeyReuseError

from jaxfed import _chacha, keys

COUNTING = bytes(range(32))
ZERO = bytes(32)
MASK = 0xFFFFFFFF


def words_of(data):
    return np.frombuffer(data, "<u4").astype(np.uint32)


def key_of(data):
    return jax.random.wrap_key_data(jnp.asarray(words_of(data)), impl=_chacha.CHACHA20)


def data_of(key):
    return np.asarray(jax.random.key_data(key))


def reference_block(key, counter, nonce):
    """RFC 8439, section 2.3, word by word in Python integers."""

    def quarter(a, b, c, d):
        for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & MASK
            mixed = state[z] ^ state[x]
            state[z] = (mixed << bits | mixed >> (32 - bits)) & MASK

    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    start += [*map(int, key), counter, *nonce]
    state = list(start)
    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        quarter(0, 5, 10, 15)
        quarter(1, 6, 11, 12)
        quarter(2, 7, 8, 13)
        quarter(3, 4, 9, 14)
    return [(a + b) & MASK for a, b in zip(state, start, strict=True)]


# key, counter, nonce, bytes of the key stream
RFC_8439 = {
    "2.3.2": (
        COUNTING,
        1,
        "000000090000004a00000000",
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    ),
    "2.4.2": (
        COUNTING,
        1,
        "000000000000004a00000000",
        "224f51f3401bd9e12fde276fb8631ded8c131f823d2c06e27e4fcaec9ef3cf78"
        "8a3b0aa372600a92b57974cded2b9334794cba40c63e34cdea212c4cf07d41b7"
        "69a6749f3f630f4122cafe28ec4dc47e26d4346d70b98c73f3e9c53ac40c5945"
        "398b6eda1a832c89c167eacd901d7e2bf363",
    ),
    "A.1 #1": (
        ZERO,
        0,
        "000000000000000000000000",
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    "A.1 #2": (
        ZERO,
        1,
        "000000000000000000000000",
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
    "A.1 #3": (
        bytes(31) + b"\x01",
        1,
        "000000000000000000000000",
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
    ),
    "A.1 #4": (
        b"\x00\xff" + bytes(30),
        2,
        "000000000000000000000000",
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
        "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
    ),
    "A.1 #5": (
        ZERO,
        0,
        "000000000000000000000002",
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
        "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
    ),
}


@pytest.mark.parametrize("name", RFC_8439)
def test_published_vectors(name):
    key, counter, nonce, expected = RFC_8439[name]
    expected = bytes.fromhex(expected)
    counters = counter + jnp.arange(-(-len(expected) // 64), dtype=jnp.uint32)
    nonce = tuple(int(word) for word in words_of(bytes.fromhex(nonce)))
    blocks = _chacha.blocks(jnp.asarray(words_of(key)), counters, nonce)
    stream = np.stack(blocks, axis=-1).astype("<u4").tobytes()
    assert stream[: len(expected)] == expected
    assert reference_block(words_of(key), counter, nonce) == [
        int(block[0]) for block in blocks
    ]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4095, 4096, 4097, 10_000])
def test_bits_are_the_stream_of_nonce_zero(size):
    key = key_of(COUNTING)
    found = np.asarray(jax.random.bits(key, (size,)))
    count = -(-size // 16)
    tiles = max(1, -(-count // 256))
    lanes = -(-count // tiles)
    blocks = [
        reference_block(words_of(COUNTING), i, (0, 0, 0)) for i in range(tiles * lanes)
    ]
    # word-major within a tile
    layout = np.array(blocks, np.uint32).reshape(tiles, lanes, 16).transpose(0, 2, 1)
    np.testing.assert_array_equal(found, layout.reshape(-1)[:size])


@pytest.mark.parametrize("number", [0, 1, 77, 2**31, 2**32 - 1])
def test_a_child_is_a_block_of_another_nonce(number):
    child = jax.random.fold_in(key_of(COUNTING), np.uint32(number))
    expected = reference_block(words_of(COUNTING), number, (0, 0, 1))[:8]
    np.testing.assert_array_equal(data_of(child), expected)


def test_split_is_a_block_of_a_third_nonce():
    children = jax.random.split(key_of(COUNTING), (2, 3))
    expected = [reference_block(words_of(COUNTING), i, (0, 0, 2))[:8] for i in range(6)]
    np.testing.assert_array_equal(data_of(children).reshape(6, 8), expected)
    fewer = data_of(jax.random.split(key_of(COUNTING), 4))
    np.testing.assert_array_equal(fewer, expected[:4])


def test_the_uses_of_a_key_share_no_word():
    """Chance repeats one of these 5,024 words with probability 0.003; seen: none."""
    key = key_of(COUNTING)
    numbers = jnp.arange(128, dtype=jnp.uint32)
    folded = jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)
    parts = [
        words_of(COUNTING),
        data_of(folded).reshape(-1),
        data_of(jax.random.split(key, 128)).reshape(-1),
        np.asarray(jax.random.bits(key_of(COUNTING), (2968,))),
    ]
    words = np.concatenate(parts)
    assert len(words) == 5024
    assert len(np.unique(words)) == len(words)


def test_a_million_derived_keys_are_distinct():
    key = key_of(COUNTING)
    derive = jax.jit(jax.vmap(lambda n: jax.random.key_data(keys.for_client(key, n))))
    found = np.asarray(derive(jnp.arange(1_000_000)))
    assert len(np.unique(found[:, :2].copy().view(np.uint64))) == 1_000_000


def test_jit_vmap_and_the_device_change_nothing():
    def draws(key):
        return jax.random.bits(keys.for_round(key, 3), (5000,))

    outside = draws(key_of(COUNTING))
    np.testing.assert_array_equal(jax.jit(draws)(key_of(COUNTING)), outside)
    pair = jnp.stack([key_of(ZERO), key_of(COUNTING)])
    np.testing.assert_array_equal(jax.vmap(draws)(pair)[1], outside)
    np.testing.assert_array_equal(jax.lax.map(draws, pair)[1], outside)
    moved = jax.device_put(key_of(COUNTING), jax.devices()[0])
    np.testing.assert_array_equal(draws(moved), outside)
    shape = jax.eval_shape(lambda key: keys.for_leaf(key, 1), key_of(ZERO))
    assert shape.dtype == key_of(ZERO).dtype
    assert shape.shape == ()


def test_widths_other_than_32_bits():
    words = np.asarray(jax.random.bits(key_of(ZERO), (40,)))
    for width in (8, 16):
        narrow = jax.random.bits(key_of(ZERO), (5, 8), f"uint{width}")
        expected = (words & np.uint32(2**width - 1)).reshape(5, 8)
        np.testing.assert_array_equal(narrow.astype(np.uint32), expected)
    with jax.enable_x64(True):
        wide = np.asarray(jax.random.bits(key_of(ZERO), (20,), "uint64"))
    np.testing.assert_array_equal(wide.view(np.uint32), words)


def test_the_usual_draws_work():
    # 20,000 normals: 5.1 standard errors of the mean and of the variance, 3.5e-7
    draws = np.asarray(jax.random.normal(key_of(ZERO), (20_000,)), np.float64)
    assert abs(draws.mean()) < 5.1 / np.sqrt(20_000)
    assert abs(draws.var() - 1) < 5.1 * np.sqrt(2 / 20_000)
    assert 0 <= jax.random.randint(key_of(ZERO), (), 0, 9) < 9


def test_a_key_that_was_drawn_from_cannot_be_drawn_from_again():
    key = key_of(ZERO)
    jax.random.bits(key, (2,))
    with pytest.raises(KeyReuseError):
        jax.random.bits(key, (2,))


def test_an_integer_seed_is_refused():
    with pytest.raises(ValueError, match="256 secret bits, got an integer seed; make"):
        jax.random.key(0, impl=_chacha.CHACHA20)


def test_a_stream_that_would_repeat_is_refused():
    with pytest.raises(ValueError, match=r"2\*\*36 words, got a request for"):
        jax.eval_shape(
            lambda key: _chacha._words(key, 2**36 + 1), jnp.zeros(8, jnp.uint32)
        )
