"""Keys: who draws what is a tree that anybody can recompute."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import KeyReuseError

from jaxfed import _hkdf, keys
from jaxfed.keys import Purpose

BRANCHES = (keys.for_round, keys.for_client, keys.for_leaf)


def data_of(key):
    return np.asarray(jax.random.key_data(key))


@pytest.mark.parametrize("seed", [0, 1, 5, 2**31 - 1])
def test_a_small_seed_gives_the_key_of_jax(seed):
    np.testing.assert_array_equal(
        data_of(keys.simulated(seed)), data_of(jax.random.key(seed))
    )
    drawn = jax.random.bits(keys.simulated(seed), (4,))
    np.testing.assert_array_equal(drawn, jax.random.bits(jax.random.key(seed), (4,)))


def test_all_64_bits_of_a_seed_count():
    base = 0x0123_4567_89AB_CDEF
    seeds = [base, *(base ^ (1 << bit) for bit in range(64))]
    assert len({data_of(keys.simulated(s)).tobytes() for s in seeds}) == 65
    np.testing.assert_array_equal(
        data_of(keys.simulated(base)), np.array([0x0123_4567, 0x89AB_CDEF], np.uint32)
    )


def test_the_upper_bits_change_what_is_drawn():
    low, high = keys.simulated(5), keys.simulated(2**40 + 5)
    assert (data_of(low) != data_of(high)).any()
    assert (jax.random.bits(low, (8,)) != jax.random.bits(high, (8,))).any()
    # why `simulated` exists: JAX itself drops them
    np.testing.assert_array_equal(
        data_of(jax.random.key(5)), data_of(jax.random.key(np.int64(2**40 + 5)))
    )


def test_every_node_of_the_tree_is_distinct():
    # 30 numbers at each of three levels below five purposes, and every inner node:
    # 5 * 31**3 = 148,955 keys of 64 bits; chance gives a collision with probability
    # 6e-10, a tag that is left out gives thousands
    numbers = jnp.array([*range(29), 2**30 - 1], jnp.int32)

    def below(key):
        def level(parents, step):
            children = jax.vmap(lambda k: jax.vmap(lambda n: step(k, n))(numbers))
            return jnp.concatenate([parents, children(parents).reshape(-1)])

        nodes = key[None]
        for step in BRANCHES:
            nodes = level(nodes, step)
        return jax.random.key_data(nodes)

    root = keys.simulated(0)
    found = np.concatenate(
        [np.asarray(jax.jit(below)(keys.for_purpose(root, p))) for p in Purpose]
    )
    assert found.shape == (5 * 31**3, 2)
    assert len(np.unique(found, axis=0)) == len(found)


def test_round_3_is_not_client_3_nor_leaf_3_nor_purpose_3():
    root = keys.simulated(0)
    same_number = [step(root, 3) for step in BRANCHES]
    same_number.append(keys.for_purpose(root, Purpose(3)))
    assert len({data_of(key).tobytes() for key in same_number}) == 4
    crossed = [
        keys.for_client(keys.for_round(root, 3), 4),
        keys.for_client(keys.for_round(root, 4), 3),
        keys.for_round(keys.for_client(root, 3), 4),
    ]
    assert len({data_of(key).tobytes() for key in crossed}) == 3


def test_the_numbers_of_the_tree_never_change():
    # pinned: a change would change every simulation that was ever published
    assert {p.name: p.value for p in Purpose} == {
        "SAMPLING": 1,
        "SHUFFLING": 2,
        "TRAINING": 3,
        "ENCODING": 4,
        "NOISE": 5,
    }
    key = keys.simulated(0)
    for tag, (step, number) in enumerate(
        [(keys.for_purpose, Purpose.NOISE), *zip(BRANCHES, (7, 8, 9), strict=True)]
    ):
        expected = jax.random.fold_in(key, np.uint32((tag << 30) | int(number)))
        key = step(key, number)
        np.testing.assert_array_equal(data_of(key), data_of(expected))


@pytest.mark.parametrize("step", BRANCHES, ids=lambda s: s.__name__)
def test_jit_and_vmap_change_nothing(step):
    numbers = np.array([0, 1, 2, 77, 2**30 - 1], np.int32)
    outside = [data_of(step(keys.simulated(9), int(n))) for n in numbers]

    def inside(key, number):
        return jax.random.key_data(step(key, number))

    mapped = jax.jit(jax.vmap(inside, (None, 0)))(keys.simulated(9), numbers)
    np.testing.assert_array_equal(mapped, outside)
    traced = [jax.jit(inside)(keys.simulated(9), n) for n in numbers]
    np.testing.assert_array_equal(traced, outside)
    arrays = [data_of(step(keys.simulated(9), jnp.asarray(n))) for n in numbers]
    np.testing.assert_array_equal(arrays, outside)


@pytest.mark.parametrize("step", BRANCHES, ids=lambda s: s.__name__)
@pytest.mark.parametrize(
    "number", [-1, 2**30, np.int64(2**40), jnp.int32(-1), jnp.uint32(2**30), 1.0, None]
)
def test_a_number_out_of_range_is_refused(step, number):
    with pytest.raises(ValueError, match=r"integer in \[0, 2\*\*30\), got"):
        step(keys.simulated(0), number)


@pytest.mark.parametrize("step", BRANCHES, ids=lambda s: s.__name__)
def test_a_traced_number_that_is_no_integer_is_refused(step):
    with pytest.raises(ValueError, match=r"integer in \[0, 2\*\*30\), got"):
        jax.jit(lambda key, n: step(key, n))(keys.simulated(0), np.float32(1))


@pytest.mark.parametrize("key", [0, None, np.zeros(2, np.uint32)])
@pytest.mark.parametrize(
    "use",
    [
        lambda key: keys.for_purpose(key, Purpose.NOISE),
        *(lambda key, step=step: step(key, 0) for step in BRANCHES),
        lambda key: keys.tree_like(key, {"w": 1.0}),
        lambda key: keys.host_words(key, 1),
        keys.host_generator,
    ],
)
def test_integers_and_raw_keys_are_refused_everywhere(use, key):
    with pytest.raises(TypeError, match="must be one typed PRNG key, got"):
        use(key)
    if key is not None and not isinstance(key, int):
        with pytest.raises(TypeError, match="got an array of uint32"):
            use(jnp.asarray(key))


def test_a_tree_of_keys_has_one_for_each_leaf():
    tree = {"b": np.zeros(2), "a": [np.zeros(3), np.zeros(())]}
    found = keys.tree_like(keys.simulated(4), tree)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    expected = [data_of(keys.for_leaf(keys.simulated(4), i)) for i in range(3)]
    np.testing.assert_array_equal(
        [data_of(k) for k in jax.tree.leaves(found)], expected
    )


def test_host_words_are_the_bits_of_the_key():
    words = keys.host_words(keys.simulated(7), 5)
    assert words.dtype == np.uint64
    assert words.shape == (5,)
    bits = np.asarray(jax.random.bits(keys.simulated(7), (5, 2), jnp.uint32))
    expected = [(int(high) << 32) | int(low) for high, low in bits]
    assert [int(word) for word in words] == expected
    np.testing.assert_array_equal(keys.host_words(keys.simulated(7), 5), words)
    assert (keys.host_words(keys.simulated(8), 5) != words).all()
    # both halves carry bits: a word below 2**32 five times has probability 2**-160
    assert (words >> np.uint64(32)).any()
    assert (words & np.uint64(0xFFFFFFFF)).any()


def test_host_generators_depend_on_their_key_alone():
    draws = []
    for global_seed in (0, 1):
        np.random.seed(global_seed)  # noqa: NPY002 - the point is that it is inert
        generator = keys.host_generator(keys.for_round(keys.simulated(7), 2))
        draws.append(generator.integers(2**63, size=8))
        np.testing.assert_array_equal(
            keys.host_words(keys.simulated(7), 2), keys.host_words(keys.simulated(7), 2)
        )
    np.testing.assert_array_equal(*draws)
    other = keys.host_generator(keys.for_round(keys.simulated(7), 3))
    assert (other.integers(2**63, size=8) != draws[0]).all()


def test_drawing_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    keys.host_generator(keys.simulated(0)).normal(size=100)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_key_that_was_drawn_from_cannot_be_drawn_from_again():
    key = keys.simulated(0)
    keys.host_words(key, 1)
    with pytest.raises(KeyReuseError):
        keys.host_words(key, 1)


def test_sibling_generators_are_unrelated():
    # correlations of 200 pairs of 1,000 normals each: |r| > 0.25 in any of them has
    # probability 200 * 2e-15; streams that overlap or repeat give r = 1
    streams = [
        keys.host_generator(keys.for_client(keys.simulated(0), i)).normal(size=1000)
        for i in range(21)
    ]
    pairs = list(itertools.combinations(streams, 2))[:200]
    assert max(abs(np.corrcoef(a, b)[0, 1]) for a, b in pairs) < 0.25


# RFC 5869, appendix A.1 to A.3: secret, salt, context, length, output
RFC_5869 = [
    (
        b"\x0b" * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        "34007208d5b887185865",
    ),
    (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        82,
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
        "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
        "cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        b"\x0b" * 22,
        b"",
        b"",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
        "9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("secret", "salt", "context", "length", "expected"), RFC_5869)
def test_published_vectors_of_hkdf(secret, salt, context, length, expected):
    derived = _hkdf.derive(secret, salt=salt, context=context, length=length)
    assert derived.hex() == expected


def test_a_secure_key_is_pinned():
    # a change would make a resumed release draw other noise
    key = keys.secure(bytes(range(32)), context=b"round 3")
    derived = _hkdf.derive(
        bytes(range(32)),
        salt=b"jaxfed secure key, version 1",
        context=b"round 3",
        length=32,
    )
    assert data_of(key).astype("<u4").tobytes() == derived
    assert derived.hex() == (
        "94f0cb4887a17daca8951d65cfc5107b8927cc18029b523cce96ceb2d8a6fc25"
    )


def test_secrets_are_entropy_and_contexts_separate():
    secrets = [keys.new_secret() for _ in range(4)]
    assert {len(secret) for secret in secrets} == {32}
    found = {
        data_of(keys.secure(secret, context=context)).tobytes()
        for secret in secrets
        for context in (b"round 1", b"round 2", b"round 10")
    }
    assert len(found) == 12
    again = keys.secure(secrets[0], context=b"round 1")
    assert data_of(again).tobytes() in found


@pytest.mark.parametrize(
    ("secret", "context", "message"),
    [
        (bytes(31), b"a", "secret must be 32 bytes, got 31 bytes; make"),
        (bytes(33), b"a", "secret must be 32 bytes, got 33 bytes; make"),
        (bytes(32), b"", "context must not be empty, got b''; name all"),
    ],
)
def test_a_weak_secret_or_an_empty_context_is_refused(secret, context, message):
    with pytest.raises(ValueError, match=message):
        keys.secure(secret, context=context)


@pytest.mark.parametrize(
    ("secret", "context"), [(0, b"a"), ("a" * 32, b"a"), (bytes(32), "a")]
)
def test_a_secret_that_is_not_bytes_is_refused(secret, context):
    with pytest.raises(TypeError, match="must be a bytes, got"):
        keys.secure(secret, context=context)


def secure(context=b"test"):
    return keys.secure(bytes(range(32)), context=context)


def test_the_two_kinds_of_keys_are_told_apart():
    for make, expected in ((secure, True), (lambda: keys.simulated(0), False)):
        key = make()
        assert keys.is_secure(key) is expected
        assert keys.is_secure(keys.for_client(keys.for_round(key, 1), 2)) is expected
        found = []
        jax.jit(lambda k, found=found: found.append(keys.is_secure(k)))(key)
        assert found == [expected]
    with pytest.raises(TypeError, match="must be one typed PRNG key, got 0"):
        keys.is_secure(0)


def test_the_tree_of_a_secure_key():
    key = secure()
    for tag, (step, number) in enumerate(
        [(keys.for_purpose, Purpose.NOISE), *zip(BRANCHES, (7, 8, 9), strict=True)]
    ):
        expected = jax.random.fold_in(key, np.uint32((tag << 30) | int(number)))
        key = step(key, number)
        np.testing.assert_array_equal(data_of(key), data_of(expected))
    leaves = keys.tree_like(key, {"a": 0.0, "b": 1.0})
    assert (data_of(leaves["a"]) != data_of(leaves["b"])).all()
    numbers = np.arange(3, dtype=np.int32)
    mapped = jax.vmap(keys.for_client, (None, 0))(key, numbers)
    np.testing.assert_array_equal(data_of(mapped[2]), data_of(keys.for_client(key, 2)))


def test_host_words_of_a_secure_key_are_its_stream():
    words = keys.host_words(secure(), 3)
    bits = np.asarray(jax.random.bits(secure(), (3, 2)))
    assert [int(w) for w in words] == [(int(h) << 32) | int(low) for h, low in bits]


def test_a_secure_key_makes_no_philox_generator():
    with pytest.raises(ValueError, match="for simulations, got a secure key; a rele"):
        keys.host_generator(secure())


@pytest.mark.parametrize("make", [secure, lambda: keys.simulated(0)])
def test_host_coins_have_their_probability(make):
    assert keys.host_coins(make(), 1.0, 100_000).all()
    assert not keys.host_coins(make(), 2.0**-64, 100_000).any()
    # 100,000 coins: 5.1 standard errors, a false alarm of 3.5e-7; 0.25 +- 0.01 caught
    heads = keys.host_coins(make(), 0.25, 100_000)
    assert heads.dtype == bool
    error = 5.1 * np.sqrt(0.25 * 0.75 / 100_000)
    assert error < 0.008
    assert abs(heads.mean() - 0.25) < error
    with pytest.raises(ValueError, match=r"probability must be in \(0, 1\]"):
        keys.host_coins(make(), 0.0, 3)


def test_the_threshold_of_a_coin_is_exact(monkeypatch):
    # words just below and at p * 2**64 decide differently; a float sum would not
    probability = 2.0**-20 + 2.0**-50
    edge = (1 << 44) + (1 << 14)
    words = np.array([0, edge - 1, edge, 2**64 - 1], np.uint64)
    monkeypatch.setattr(keys, "host_words", lambda key, count: words[:count])
    coins = keys.host_coins(keys.simulated(0), probability, 4)
    np.testing.assert_array_equal(coins, [True, True, False, False])


@pytest.mark.parametrize("make", [secure, lambda: keys.simulated(0)])
def test_host_order_is_uniform(make):
    # 1,000 orders of 3: chi-square with 5 degrees of freedom exceeds 37.4 with
    # probability 5e-7; an order twice as likely as another gives over 100
    root = make()
    orders = [
        tuple(map(int, keys.host_order(keys.for_leaf(root, i), 3))) for i in range(1000)
    ]
    counts = [orders.count(order) for order in itertools.permutations(range(3))]
    assert sum(counts) == 1000
    assert sum((count - 1000 / 6) ** 2 for count in counts) / (1000 / 6) < 37.4
    many = keys.host_order(make(), 1000)
    np.testing.assert_array_equal(np.sort(many), np.arange(1000))
