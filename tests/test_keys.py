"""Keys: who draws what is a tree that anybody can recompute."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import KeyReuseError
from scipy import stats

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


@pytest.mark.parametrize("make", [lambda: keys.simulated(9), lambda: secure()])
def test_a_traced_number_out_of_range_gets_a_key_of_its_own(make):
    """It would wrap around to an earlier round, or run into another step's tag."""
    inside = [0, 1, 3, 2**30 - 1]
    outside = [-1, -(2**30), -(2**31), 2**30, 2**30 + 3, 2**31 - 1]

    @jax.jit
    def children(key, numbers):
        found = [jax.vmap(step, (None, 0))(key, numbers) for step in BRANCHES]
        return jax.random.key_data(jnp.concatenate(found))

    found = data = np.asarray(children(make(), np.array(inside + outside, np.int32)))
    unsigned = np.array([2**31 + 3, 2**32 - 3], np.uint32)
    found = np.concatenate([data, children(make(), unsigned)])
    known = [data_of(step(make(), n)) for step in BRANCHES for n in inside]
    assert len(np.unique(found, axis=0)) == 3 * (len(inside) + len(outside) + 2)
    each = data.reshape(3, len(inside) + len(outside), -1)[:, : len(inside)]
    np.testing.assert_array_equal(each.reshape(len(known), -1), known)
    purposes = [data_of(keys.for_purpose(make(), p)) for p in Purpose]
    assert len(np.unique([*found, *purposes], axis=0)) == len(found) + len(Purpose)
    for small in (np.int8, np.uint16):
        at_77 = children(make(), np.array([77], small))
        np.testing.assert_array_equal(at_77[0], data_of(keys.for_round(make(), 77)))


@pytest.mark.parametrize("key", [0, None, np.zeros(2, np.uint32)])
@pytest.mark.parametrize(
    "use",
    [
        lambda key: keys.for_purpose(key, Purpose.NOISE),
        *(lambda key, step=step: step(key, 0) for step in BRANCHES),
        lambda key: keys.tree_like(key, {"w": 1.0}),
        lambda key: keys.host_words(key, 1),
        lambda key: keys.host_coins(key, 0.5, 1),
        lambda key: keys.host_integers(key, 2, 1),
        lambda key: keys.host_order(key, 1),
        lambda key: keys.host_subset(key, 10, 1),
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


def test_drawing_neither_asks_nor_moves_the_global_generator():
    draws = []
    for global_seed in (0, 1):
        np.random.seed(global_seed)  # noqa: NPY002 - the point is that it is inert
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        draws.append(keys.host_order(keys.for_round(keys.simulated(7), 2), 50))
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(*draws)
    other = keys.host_order(keys.for_round(keys.simulated(7), 3), 50)
    assert (other != draws[0]).any()


def test_a_key_that_was_drawn_from_cannot_be_drawn_from_again():
    for draw in (
        lambda key: keys.host_words(key, 1),
        lambda key: keys.host_coins(key, 0.3, 1),
        lambda key: keys.host_integers(key, 3, 1),
        lambda key: keys.host_order(key, 3),
        lambda key: keys.host_subset(key, 30, 3),
    ):
        key = keys.simulated(0)
        draw(key)
        with pytest.raises(KeyReuseError):
            draw(key)


def test_siblings_are_unrelated():
    # correlations of 200 pairs of 1,000 uniform numbers each: |r| > 0.25 in any of
    # them has probability below 1e-10; streams that overlap or repeat give r = 1
    streams = [
        keys.host_words(keys.for_client(keys.simulated(0), i), 1000) / 2.0**64
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


def given_words(monkeypatch, *draws):
    """Makes successive draws return these words, cut or filled with zeros."""
    left = [np.array(words, np.uint64) for words in draws]

    def host_words(key, count):
        words = left.pop(0)[:count]
        return np.concatenate([words, np.zeros(count - len(words), np.uint64)])

    monkeypatch.setattr(keys, "host_words", host_words)
    return left


@pytest.mark.parametrize(
    "probability", [1e-9, 1e-3, 2.0**-20 + 2.0**-50, 0.3, 1 - 2.0**-53, 2.0**-44]
)
def test_the_threshold_of_a_coin_is_exact(probability, monkeypatch):
    """96 bits just below and at p * 2**96, an integer, decide differently."""
    edge = Fraction(probability) * 2**96
    assert edge.denominator == 1
    uniform = [0, int(edge) - 1, int(edge), 2**96 - 1]
    if edge % 2**64 == 0:  # the first 32 bits decide alone
        uniform[1:3] = [int(edge) - 2**64, int(edge)]
    pairs = [[u >> 64 for u in uniform[i : i + 2]] for i in (0, 2)]
    rest = [u & (2**64 - 1) for u in uniform]
    given_words(monkeypatch, [low | high << 32 for low, high in pairs], rest)
    coins = keys.host_coins(keys.simulated(0), probability, 4)
    np.testing.assert_array_equal(coins, [True, True, False, False])


def test_a_coin_that_is_always_true(monkeypatch):
    given_words(monkeypatch, [2**64 - 1, 2**64 - 1])
    assert keys.host_coins(keys.simulated(0), 1.0, 4).all()


@pytest.mark.parametrize("bound", [1, 2, 3, 1000, 2**32 - 1])
def test_an_integer_is_128_bits_times_the_bound(bound, monkeypatch):
    edges = [0, 2**128 - 1, 2**64 - 1, 2**64, 0x0123456789ABCDEF << 40]
    edges += [
        -(-(value << 128) // bound) + d for value in (1, bound // 2) for d in (-1, 0)
    ]
    uniform = [u for u in edges if 0 <= u < 2**128]
    low, high = [u & (2**64 - 1) for u in uniform], [u >> 64 for u in uniform]
    given_words(monkeypatch, low + high)
    found = keys.host_integers(keys.simulated(0), bound, len(uniform))
    assert found.dtype == np.int64
    assert found.tolist() == [u * bound >> 128 for u in uniform]


@pytest.mark.parametrize("make", [secure, lambda: keys.simulated(0)])
def test_host_integers_are_uniform(make):
    # 20,000 of 7: chi-square with 6 degrees of freedom exceeds 38.5 with probability
    # 9e-7; one value more likely by 10 % gives over 50 more often than not
    found = keys.host_integers(make(), 7, 20_000)
    counts = np.bincount(found, minlength=7)
    assert len(counts) == 7
    assert ((counts - 20_000 / 7) ** 2).sum() / (20_000 / 7) < 38.5
    with pytest.raises(
        ValueError, match=r"bound must be < 2\*\*32, got 4294967296; dr"
    ):
        keys.host_integers(make(), 2**32, 1)


def test_ties_are_broken_by_further_bits(monkeypatch):
    left = given_words(monkeypatch, [5, 3, 5, 3], [0, 9, 1, 8])
    np.testing.assert_array_equal(keys.host_order(keys.simulated(0), 4), [3, 1, 0, 2])
    assert not left
    left = given_words(monkeypatch, [5, 3, 6, 4], [])
    np.testing.assert_array_equal(keys.host_order(keys.simulated(0), 4), [1, 3, 0, 2])
    assert len(left) == 1  # nothing more is drawn without a tie


@pytest.mark.parametrize("make", [secure, lambda: keys.simulated(0)])
@pytest.mark.parametrize(("count", "size"), [(17, 2), (4, 2)])
def test_host_subset_is_uniform(make, count, size):
    # 1,500 subsets, of 136 or 6: the sum of squared deviations over the mean has mean
    # cells - 1; the level is that of a false alarm of 1e-6. The one that starts with
    # the first number being twice as likely is caught.
    root = make()
    cells = dict.fromkeys(itertools.combinations(range(count), size), 0)
    for i in range(1_500):
        cells[
            tuple(keys.host_subset(keys.for_leaf(root, i), count, size).tolist())
        ] += 1

    def pvalue(counts):
        return stats.chisquare(counts).pvalue

    found = np.array(list(cells.values()))
    assert pvalue(found) > 1e-6
    doubled = found * np.array([1 + (pair[0] == 0) for pair in cells])
    assert pvalue(doubled) < 1e-6


@pytest.mark.parametrize(("count", "size"), [(5, 0), (5, 5), (1, 1), (10**6, 1000)])
def test_host_subset_has_its_size(count, size):
    found = keys.host_subset(keys.simulated(0), count, size)
    assert found.dtype == np.int64
    assert len(found) == size
    assert (np.diff(found) > 0).all()
    assert ((found >= 0) & (found < count)).all()
    for bad in (-1, count + 1):
        with pytest.raises(
            ValueError, match=rf"size must be in \[0, {count}\], got {bad}"
        ):
            keys.host_subset(keys.simulated(0), count, bad)


def test_host_subset_goes_on_where_values_repeat(monkeypatch):
    """The first two distinct values of 9, 9, ..., 9 | 9, 9, 3, 5, ..."""
    drawn = [np.full(20, 9), np.array([9, 9, 3, *[5] * 17])]
    monkeypatch.setattr(keys, "host_integers", lambda key, bound, count: drawn.pop(0))
    np.testing.assert_array_equal(keys.host_subset(keys.simulated(0), 16, 2), [3, 9])


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
