"""Defects seen in other libraries, each as the smallest program that would show it.

Each docstring says what went wrong and where it was seen, with the version and the
number measured there; the test then asks the same of jaxfed.
"""

import functools
import hashlib
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.noise import _discrete
from jaxfed.typing import ClientResult
from tests.problems import logistic_loss, logistic_params, ragged_data

ONE = {"w": jnp.zeros(2).at[0].set(1e6)}  # as far as one client can go


def key_of(round_index=0):
    return jf.keys.for_round(jf.keys.simulated(2), round_index)


def central(*, clients=100, norm=1.0, multiplier=1.0, sampling=None, clipping=None):
    return jf.privacy.central(
        sampling=sampling or jf.sampling.Full(population=clients),
        clipping=clipping or jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=multiplier),
    )


@functools.partial(jax.jit, static_argnums=0)
def _encoded(privacy, update, weight, key):
    result = ClientResult(update, weight, ())
    return privacy.encode(privacy.init(update), result, key=key)


@functools.partial(jax.jit, static_argnums=0)
def _released(privacy, total, key):
    _, found = privacy.release(privacy.init(total.update), total, key=key)
    return found.value


def encoded(privacy, update, *, weight=1.0):
    """What one client adds to the sum."""
    return _encoded(privacy, update, jnp.float32(weight), key_of())


def released(privacy, total, *, key=None):
    """The released mean of a sum of encoded updates."""
    found = _released(privacy, total, key_of() if key is None else key)
    return jax.tree.map(lambda a: np.asarray(a, np.float64), found)


def times(count, contribution):
    return jax.tree.map(lambda a: a * count, contribution)


def squared_norm(contribution):
    """The exact squared norm of integers, as a Python integer."""
    leaves = jax.tree.leaves(contribution)
    return sum(int(x) ** 2 for leaf in leaves for x in np.ravel(leaf))


def levels_of(privacy, update):
    return privacy._joint(update).parts[0].lattice.levels


def test_h01_denominator_is_public_not_the_cohort():
    """Noise for the nominal cohort over a sum divided by the actual one.

    Flower 1.42 without its accountant: 5 replies of 100 leave an effective multiplier
    of 0.05 where 1 is set (measured), and a warning.
    """
    size = 100_000  # the standard error of a deviation is 0.22 %
    privacy = central(clients=100)
    one = encoded(privacy, {"w": jnp.zeros(size).at[0].set(9.0)})
    noise = released(privacy, times(0, one))["w"].std()
    for replies in (1, 5, 100):
        means = [released(privacy, times(n, one))["w"] for n in (replies, replies - 1)]
        moved = np.linalg.norm(means[0] - means[1])  # the same noise in both
        assert noise / moved == pytest.approx(1.0, rel=0.012)


@pytest.mark.parametrize("weight", [1000.0, 1e6, -85.0, -89.999, math.nan])
def test_h02_clients_do_not_weigh_themselves(weight):
    """Weights that clients report multiply clipped updates.

    Flower 1.41 and 1.42: one client with 1000 of 1090 examples makes an effective
    multiplier of 0.109 of 1, one that says -89.999 moves the model by 89,999
    (measured). FL4Health scales its noise by a maximum over the data (read).
    """
    privacy = central()
    plain, weighed = encoded(privacy, ONE), encoded(privacy, ONE, weight=weight)
    np.testing.assert_array_equal(plain.update["w"], weighed.update["w"])
    assert squared_norm(weighed) <= levels_of(privacy, ONE) ** 2


def test_h03_fixed_size_cohorts_count_a_replaced_client_twice():
    """Sampling without replacement is accounted at half its sensitivity.

    dp-accounting 0.6.0's Renyi accountant ignores the relation (its issue 378);
    jax-privacy 2.0.0 (`fixed_dpsgd_event`), FL4Health and Flower 1.42 pass it the
    whole multiplier: 4.02 claimed where 23.3 is true (measured).
    """
    sampling = jf.sampling.FixedSize(population=10_000, size=100)
    privacy = central(sampling=sampling)
    event = privacy.event(rounds=1000)
    assert event.event.event.noise_multiplier == 0.5
    found = jf.accounting.epsilon(event, 1, delta=1e-6, relation=sampling.relation)
    assert found == pytest.approx(23.3, abs=0.05)
    assert "replaced by any other" in str(privacy.statement(rounds=1000))
    # what noise in finite tables adds to delta puts this one out of reach
    assert privacy.epsilon(rounds=1000, delta=1e-6) == math.inf


def adapted(initials, rounds, norms):
    """The adaptive norm after some rounds of clients with these norms, by start."""
    clipping = jf.clipping.Adaptive(quantile=0.5, initial=1.0)
    privacy = central(clients=len(norms), clipping=clipping)
    updates = {"w": jnp.asarray(norms[:, None] * [0.6, 0.8], jnp.float32)}

    @jax.jit
    def one_round(state, key):
        def encode(update):
            result = ClientResult(update, jnp.float32(1), ())
            return privacy.encode(state, result, key=key_of())

        parts = jax.vmap(encode)(updates)
        total = jax.tree.map(lambda a: jnp.sum(a, 0, dtype=jnp.int32), parts)
        return privacy.release(state, total, key=key)[0]

    for state in map(jnp.float32, initials):
        for index in range(rounds):
            state = one_round(state, key_of(index))
        yield float(state)


def test_h04_adaptive_clipping_follows_the_quantile():
    """The norm runs away from the quantile instead of towards it.

    Flower 1.42.0: with a true median of 1, an initial norm of 0.1 ends at 4.5e-6 and
    one of 10 at 2.2e5 after 100 rounds (measured).
    """
    norms = np.random.default_rng(0).lognormal(0, 0.3, 200)
    for found in adapted((0.1, 10.0), 60, norms):
        assert found == pytest.approx(np.median(norms), rel=0.15)


def test_h04_adaptive_clipping_is_charged_for_its_count():
    """The accountant sees the update's larger multiplier and not the count.

    Opacus, git of September 2025: both AdaClip paths overwrote the multiplier that
    the accountant reads; epsilon 2.18 for 2.87 at multiplier 1, count noise 1, rate
    1 %, 2,000 steps (measured; 1.6.0 does not).
    """
    clipping = jf.clipping.Adaptive(quantile=0.5, initial=1.0, count_stddev=1.0)
    sampling = jf.sampling.Poisson(population=10_000, rate=0.01)
    privacy = central(clipping=clipping, sampling=sampling)
    zero = times(0, encoded(privacy, {"w": jnp.zeros(100_000)}))
    stddev = released(privacy, zero)["w"].std() * sampling.expected_clients
    assert stddev == pytest.approx(math.sqrt(4 / 3), rel=0.012)  # theorem 1
    assert privacy.event(rounds=1).event.noise_multiplier == 1.0
    assert privacy.event(rounds=2000) == central(sampling=sampling).event(rounds=2000)
    assert privacy.epsilon(rounds=2000, delta=1e-6) > 2.87


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_h05_a_non_finite_update_is_no_update(bad):
    """NaN compares false, passes the clip and reaches every parameter.

    Flower 1.42, Opacus 1.6 (one row of 1,000), optax.contrib's DP-SGD (measured); pfl
    and TFF's clipping (read).
    """
    privacy = central(clients=2)
    good = encoded(privacy, {"w": jnp.array([0.3, -0.2]), "b": jnp.zeros(3)})
    broken = encoded(privacy, {"w": jnp.array([0.3, bad]), "b": jnp.ones(3)})
    assert squared_norm(broken) == 0
    both = jax.tree.map(jnp.add, good, broken)
    for one, other in zip(
        jax.tree.leaves(released(privacy, both)),
        jax.tree.leaves(released(privacy, good)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()


def test_h06_a_zero_update_is_an_update():
    """`clip_norm / 0.0` ends the round.

    Flower 1.41 and 1.42: ZeroDivisionError, which any one client can cause (measured;
    pull request 7631 is open).
    """
    privacy = central()
    zero = encoded(privacy, {"w": jnp.zeros(4)})
    assert squared_norm(zero) == 0
    assert np.isfinite(released(privacy, zero)["w"]).all()


def test_h07_arrays_are_clipped_together_and_integers_refused():
    """Arrays clipped one by one, integers noised by truncated floats.

    Flower 1.42: two records of norm 1 have a joint norm of 1.414; an int array raises
    UFuncTypeError; noise on int64 is cut to 0 (measured).
    """
    privacy = central()
    two = {"a": jnp.full(3, 5.0), "b": jnp.full(4, -7.0)}
    levels = levels_of(privacy, two)
    assert (0.999 * levels) ** 2 < squared_norm(encoded(privacy, two)) <= levels**2
    with pytest.raises(TypeError, match="floating-point arrays, got int32"):
        encoded(privacy, {"a": jnp.ones(3), "batches_seen": jnp.ones((), jnp.int32)})


def test_h08_what_is_drawn_is_what_is_accounted():
    """Batches of one law, an epsilon of another.

    jax-privacy's own examples shuffled and claimed Poisson (issue 84); Opacus accounts
    `poisson_sampling=False` as Poisson (read) and takes a weighted sampler (issue
    813); Flower's simulation draws a fixed size and claims add-or-remove.
    """
    sampling = jf.sampling.Poisson(population=50, rate=0.2, cap=50)
    sizes = [len(sampling.draw(i, key=jf.keys.simulated(2))) for i in range(400)]
    # variance 8, standard error 0.57: false alarm 3.5e-7 at 5.1; fixed sizes have 0
    assert abs(np.var(sizes) - 8) < 5.1 * 0.57
    privacy = central(sampling=sampling)
    assert privacy.event(rounds=1).event == sampling.event(1.0)
    silos = jf.privacy.example_level(
        sampling=jf.sampling.Full(population=6),
        sizes=ragged_data().client_sizes,
        rate=0.2,
        steps=2,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
    )
    shuffled = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    with pytest.raises(ValueError, match="local work must be this privacy object's"):
        jf.simulate(
            jf.algorithms.fedavg(shuffled, silos),
            ragged_data(),
            params=logistic_params(),
            rounds=1,
            seed=0,
            progress=False,
        )


def test_h09_client_and_example_rates_are_not_multiplied():
    """Every local step accounted at the product of two sampling rates.

    FL4Health's `FlInstanceLevelAccountant`: 1.64 claimed for one round of 200 steps at
    rates 0.1 and 0.1 with multiplier 1, where the exact number is 7.67 (computed).
    """
    silos = jf.privacy.example_level(
        sampling=jf.sampling.Poisson(population=10, rate=0.1),
        sizes=(1000,) * 10,
        rate=0.1,
        steps=200,
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
    )
    assert 7.67 < silos.epsilon(rounds=1, delta=1e-6) < 20


@pytest.mark.parametrize(
    ("multiplier", "poisson", "once"), [(0.6, 4.75, 8.84), (1.0, 0.95, 4.89)]
)
def test_h10_a_partition_into_batches_is_not_poisson(multiplier, poisson, once):
    """Shuffled epochs accounted as Poisson sampling.

    Chua et al. 2024, arXiv:2403.17673; done by the Keras examples of jax-privacy, by
    Opacus without Poisson sampling and in TensorFlow Privacy (issue 483). An epoch of
    100 batches at delta 1e-6: 4.75 for 8.84 at multiplier 0.6.
    """
    for sampling in (
        jf.sampling.Cyclic(population=10_000, groups=100),
        jf.sampling.BallsInBins(population=10_000, bins=100),
    ):
        privacy = central(sampling=sampling, multiplier=multiplier)
        found = privacy.epsilon(rounds=100, delta=1e-6)
        assert found == pytest.approx(once, abs=0.01)
        assert found > 1.5 * poisson


def test_h11_no_single_output_proves_an_input():
    """Float noise has holes, and every input has its own.

    `jax.random.normal` in float32 has 2**23 values, and 88 % of single outputs exclude
    one of two inputs (measured); Opacus's `secure_mode` and jax-privacy's hardened
    path are opt-in. The attack itself is in `test_support.py`.
    """
    privacy = central(clients=1, multiplier=0.01)
    zero = times(0, encoded(privacy, {"w": jnp.zeros(100_000)}))
    part = privacy._joint(zero.update).parts[0]
    shift = part.lattice.levels // 1000  # a neighbour by a thousandth of the clip
    found = released(privacy, zero)["w"] * part.lattice.target
    integers = np.round(found)
    np.testing.assert_allclose(found, integers, rtol=2**-22)  # float32's own spacing
    reach = part.noise.largest(part.lattice.levels)
    assert np.abs(integers - shift).max() <= reach  # so the neighbour gives it too
    assert np.gcd.reduce(integers.astype(np.int64)) == 1  # and leaves no integer out


def test_h12_noise_depends_on_256_secret_bits_alone():
    """Noise from a seed that can be guessed, or from NumPy's global generator.

    jax-privacy 2.0.0 takes `np.random.randint(0, 2**31)`: found by search in 38 s;
    Flower, FL4Health and NVFlare draw from the global generator, pfl seeds it with 32
    bits (read). `np.random.seed(0)`, usual for reproducibility, then fixes the noise.
    """
    secrets = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002 - what a user does
        secrets.append(jf.keys.new_secret())
    assert secrets[0] != secrets[1]
    assert {len(secret) for secret in secrets} == {32}
    found = [jf.keys.secure(secret, context=b"round 1") for secret in secrets]
    words = [np.asarray(jax.random.key_data(key)) for key in found]
    assert words[0].nbytes == 32
    assert (words[0] != words[1]).any()
    privacy = central()
    for key in (0, 2**31, np.uint32(7), jnp.zeros(2, jnp.uint32)):
        with pytest.raises(TypeError, match="must be one typed PRNG key"):
            privacy.release((), encoded(privacy, ONE), key=key)
    with pytest.raises(ValueError, match="secret must be 32 bytes, got 4"):
        jf.keys.secure(b"1234", context=b"round 1")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_h13_low_precision_keeps_the_norm_and_the_sum(dtype):
    """Norms and sums taken in the precision of the input.

    jax-privacy 2.0.0's `clip_pytree` to 1: true norms of 1.0059 in bfloat16, 1.00075
    in float16, and none at all for 1e7 values of 1e-4 in float16; 4,096 times 0.01
    adds up to 4.0 in bfloat16 (measured).
    """
    privacy = central(clients=4096, norm=0.05)
    many = {"w": jnp.full(1_000_000, 1e-4, dtype)}
    levels = levels_of(privacy, many)
    square = (
        np.asarray(encoded(privacy, many).update["w"]).astype(np.int64) ** 2
    ).sum()
    assert (0.99 * levels) ** 2 < square <= levels**2
    rows = np.random.default_rng(0).normal(size=(1000, 50))
    rows = jnp.asarray(0.05 * rows / np.linalg.norm(rows, axis=1)[:, None], dtype)
    parts = jax.vmap(lambda row: encoded(privacy, {"w": row}))(rows).update["w"]
    squares = (np.asarray(parts).astype(np.int64) ** 2).sum(axis=1)
    assert squares.max() <= levels_of(privacy, {"w": rows[0]}) ** 2
    silent = central(clients=1, multiplier=0.0)
    total = times(4096, encoded(silent, {"w": jnp.full(1, 0.01, dtype)}))
    assert released(silent, total)["w"][0] == pytest.approx(40.96, rel=2e-3)


def test_h14_an_empty_cohort_is_a_full_round():
    """Rounds without clients are skipped, and so tell that nobody took part.

    Opacus's distributed sampler (issues 161, 164, 522), FL4Health (pull request 114);
    in Flower one failed client skips the round.
    """
    data = ragged_data()
    privacy = jf.privacy.central(
        sampling=jf.sampling.Poisson(population=data.num_clients, rate=1e-9, cap=2),
        clipping=jf.clipping.Fixed(norm=1.0),
        noise=jf.noise.Gaussian(multiplier=1.0),
        delta=1e-3,
    )
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    params = [logistic_params()["w"]]
    history = jf.simulate(
        jf.algorithms.fedavg(local, privacy),
        data,
        params=logistic_params(),
        rounds=3,
        seed=0,
        callbacks=[lambda history: params.append(history.params["w"])],
        progress=False,
    )
    assert [record.private["num_clients"] for record in history.rounds] == [0, 0, 0]
    for before, after in itertools.pairwise(params):
        assert (np.asarray(before) != np.asarray(after)).all()  # noise in every round
    assert history.epsilon == privacy.epsilon(rounds=3)


def test_h15_a_retry_with_other_data_draws_other_noise():
    """A restored noise key meets another cohort, and the noise cancels.

    jax-privacy keeps the key in its noise state: after a resume the difference of two
    releases under noise of 10 was [0, 0, 1], the data themselves (measured). Opacus
    and Flower lose or roll back the accountant with the checkpoint (measured).
    """
    privacy, secret = central(multiplier=10.0), bytes(range(32))

    def release(total):
        digest = hashlib.sha256(np.asarray(total.update["w"]).tobytes()).digest()
        key = jf.keys.secure(secret, context=b"round 3, attempt 1, " + digest)
        return released(privacy, total, key=key)["w"]

    first = encoded(privacy, {"w": jnp.zeros(1000)})
    other = encoded(privacy, {"w": jnp.zeros(1000).at[0].set(1.0)})
    np.testing.assert_array_equal(release(first), release(first))  # a crash repeats
    gap = release(other) - release(first)
    # two independent noises of 10 / 100: 5.1 standard errors of the deviation, 3.5e-7
    assert gap.std() == pytest.approx(0.1 * math.sqrt(2), rel=5.1 / math.sqrt(2000))
    # nothing of the accounting can be rolled back: epsilon is a function of rounds
    again = jf.privacy.from_json(privacy.to_json())
    assert again.epsilon(rounds=5, delta=1e-6) == privacy.epsilon(rounds=5, delta=1e-6)


def test_h16_rounding_after_the_clip_stays_within_the_bound():
    """What comes after the clip may make an update longer.

    Unbiased rand-k and stochastic rounding do; TFF's documentation leaves it to its
    users. Here rounding to the grid is all that comes after, and leaves room for it.
    """
    privacy = central(clients=1000, multiplier=1e-3)
    update = {"w": jnp.zeros(30)}
    lattice = privacy._joint(update).parts[0].lattice
    assert lattice.is_random
    rows = np.random.default_rng(1).normal(size=(2000, 30)).astype(np.float32)
    one = jnp.float32(1)
    run = jax.vmap(lambda row, key: _encoded(privacy, {"w": row}, one, key))
    parts = run(rows, jax.random.split(key_of(), 2000)).update["w"]
    squares = (np.asarray(parts).astype(np.int64) ** 2).sum(axis=1)
    assert squares.max() <= lattice.levels**2
    assert squares.max() > lattice.target**2 * 0.999
    assert np.unique(squares).size > 1000  # rounded at random indeed


def test_h17_sensitivity_follows_the_clip_and_nothing_else():
    """A sensitivity that users set, beside the clip.

    Flower's `LocalDpMod` takes both; FLIP (medical imaging) ships clip 1.0 with
    sensitivity 1e-4 as "formal (eps, delta)", whose true epsilon is about 2e8 a round.
    """
    noise = jf.noise.Gaussian(multiplier=6.0)
    full = jf.sampling.Full(population=1)
    for build in (jf.privacy.central, jf.privacy.local):
        with pytest.raises(TypeError, match="sensitivity"):
            build(
                sampling=full,
                clipping=jf.clipping.Fixed(norm=1.0),
                noise=noise,
                sensitivity=1e-4,
            )
    for norm in (1e-4, 1e4):
        privacy = jf.privacy.local(
            sampling=full, clipping=jf.clipping.Fixed(norm=norm), noise=noise
        )
        assert privacy.sensitivity() == 2 * norm
        assert privacy.event(rounds=1).event.noise_multiplier <= 3.0
    report = encoded(privacy, jnp.zeros(50_000))
    _, mean = privacy.release((), report, key=key_of())
    # standard error 0.32 %: false alarm 3.5e-7
    assert np.std(mean.value) == pytest.approx(6 * norm, rel=5.1 * 0.0032)


def test_h18_no_noise_is_used_twice():
    """One key for all leaves, or for all rounds.

    JAX's own private example noised every parameter with the same key (issue 3646).
    """
    privacy = central()
    zero = encoded(privacy, {name: jnp.zeros(2000) for name in "ab"})
    found = [released(privacy, zero, key=key_of(index)) for index in range(3)]
    noise = np.array([leaf for one in found for leaf in one.values()])
    # 15 pairs of 2,000: a correlation of 0.13 is 5.8 standard errors, 1e-7 in all
    assert np.abs(np.corrcoef(noise) - np.eye(6)).max() < 0.13


def test_h19_skellam_noise_has_its_law_where_poisson_fails():
    """A Poisson generator outside its range.

    `jax.random.poisson` at a mean of 1e8 gives even numbers only, with 1.46 times the
    variance (measured). Here Skellam is drawn from tables, up to a stated variance.
    """
    count, variance = 200_000, 2.0**23
    draws = _discrete.skellam(variance).draw((count,), key=key_of())
    draws = np.asarray(draws, np.float64)
    # 5.1 standard errors each, a false alarm of 3.5e-7
    assert abs((draws % 2).mean() - 0.5) < 5.1 * 0.5 / math.sqrt(count)
    assert abs(draws.var() / variance - 1) < 5.1 * math.sqrt(2 / count)
    with pytest.raises(ValueError, match=r"variance must be 0 or in \[0\.5, 8388608"):
        _discrete.skellam(1e8)
