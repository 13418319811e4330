"""One round's release as one Gaussian over several parts of a contribution.

Independent Gaussian noise of multipliers z_i on parts that one client moves by one
bound each is a single Gaussian mechanism of multiplier z with
`1 / z**2 = sum(1 / z_i**2)` (McMahan et al. 2018, arXiv:1812.06210, lemma 1; Andrew et
al. 2021, arXiv:1905.03871, theorem 1). Each part gets a share of `1 / z**2`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfed import clipping as clip
from jaxfed import keys, noise, sampling, tree
from jaxfed.clipping import _lattice
from jaxfed.clipping._base import Group
from jaxfed.privacy._base import RUN_DISTANCE
from jaxfed.typing import ClippedSum, Params, PyTree, Released

_WORD = 2**31


class Encoded(NamedTuple):
    """What one contribution adds to the sum, and the sum itself. Private; integers."""

    update: PyTree
    """int32 leaves in the structure of the update."""
    count: PyTree
    """() int32: plus or minus half a client, for adaptive clipping; otherwise ()."""


class Part(NamedTuple):
    """A part of a contribution: its grid, and the noise on its sum."""

    lattice: _lattice.Lattice
    noise: noise.Gaussian | noise.Skellam


class Joint(NamedTuple):
    """How contributions are laid out, encoded, summed and released; static."""

    clipping: clip.Clipping
    groups: tuple[Group, ...]
    parts: tuple[Part, ...]
    """One for each group."""
    count: Part | None
    """The report of adaptive clipping."""

    @property
    def distance(self) -> float:
        """How far a round's noise is from its ideal law, at most."""
        sizes = [(g.dimension, p) for g, p in zip(self.groups, self.parts, strict=True)]
        if self.count is not None:
            sizes.append((1, self.count))
        return sum(n * part.noise.distance(part.lattice.levels) for n, part in sizes)


def joint(
    clipping: clip.Clipping,
    multiplier: float,
    params: Params,
    *,
    max_contributions: int,
    expected_contributions: float,
) -> Joint:
    """Lays out the release of one sum.

    Args:
        clipping: how each contribution is bounded.
        multiplier: noise over the bound, of all parts together.
        params: anything with the structure and shapes of a contribution.
        max_contributions: how many are summed at most.
        expected_contributions: the public number that the sum is divided by.

    Raises:
        ValueError: the sum could overflow, or the clip refuses such noise.
    """
    groups = clipping.groups(params)
    clipping.check_noise(expected_contributions, multiplier)
    count, rest = None, 1.0
    if isinstance(clipping, clip.Adaptive):
        count_multiplier = 0.0
        if multiplier > 0:
            stddev = clipping.noise_on_count(expected_contributions, multiplier)
            count_multiplier = 2 * stddev
            rest = 1 - (multiplier / count_multiplier) ** 2
        count = _part(1, max_contributions, count_multiplier)
    parts = tuple(
        _part(
            group.dimension,
            max_contributions,
            multiplier / math.sqrt(rest * group.share),
        )
        for group in groups
    )
    return Joint(clipping, groups, parts, count)


def with_skellam(
    clipping: clip.Fixed,
    noise: noise.Skellam,
    params: Params,
    *,
    max_contributions: int,
) -> Joint:
    """Lays out the release of one sum with Skellam noise, on the grid of the noise.

    Raises:
        ValueError: the sum could overflow, or that grid is too coarse for it.
    """
    (group,) = clipping.groups(params)
    levels = noise.levels
    stddev = math.sqrt(noise.variance(levels))
    try:
        lattice = _lattice.at(
            levels,
            dimension=group.dimension,
            max_clients=max_contributions,
            stddev=stddev,
        )
    except ValueError as error:
        raise ValueError(
            f"a cohort must be small enough for the grid of Skellam noise, {levels:,} "
            f"steps a clip norm at this multiplier, got up to {max_contributions:,} "
            f"clients of {group.dimension:,} parameters: rounding would cost over 1 %; "
            "take fewer clients a round, or noise.Gaussian."
        ) from error
    most = max_contributions * levels + noise.largest(levels)
    if most >= _WORD:
        raise ValueError(
            f"a sum of up to {max_contributions:,} contributions of {levels:,} steps "
            "must fit 32 bits; take fewer clients a round, or more noise."
        )
    return Joint(clipping, (group,), (Part(lattice, noise),), None)


def encode(layout: Joint, state: PyTree, update: PyTree, *, key: jax.Array) -> Encoded:
    """Clips one contribution and rounds it to integers; zero where not finite."""
    return encode_counted(layout, state, update, key=key)[0]


def encode_counted(
    layout: Joint, state: PyTree, update: PyTree, *, key: jax.Array
) -> tuple[Encoded, jax.Array]:
    """Returns what `encode` does, and whether it is the update and not a zero for it.

    It is not for NaN, infinity and norms beyond 2**60 clip norms.
    """
    scaled = layout.clipping.scale(state, update)
    encoded = [
        _lattice.encode(
            _leaves_of(group, scaled), norm, part.lattice, key=keys.for_leaf(key, index)
        )
        for index, (group, part, norm) in enumerate(_with_norms(layout, state))
    ]
    is_finite = jnp.all(jnp.stack([one.is_finite for one in encoded]))
    values = [one.value for one in encoded]
    if len(values) > 1:  # one bad group zeroes the whole contribution
        values = [[jnp.where(is_finite, a, 0) for a in group] for group in values]
    integers = _assembled(layout, values, update)
    if layout.count is None:
        return Encoded(integers, ()), is_finite
    half = jnp.where(encoded[0].fits, 1, -1) * layout.count.lattice.levels
    count = jnp.where(is_finite, half, 0).astype(jnp.int32)
    return Encoded(integers, count), is_finite


def release(
    layout: Joint, state: PyTree, total: Encoded, divisor: Any, *, key: jax.Array
) -> tuple[PyTree, Released]:
    """Adds noise to the sum, then divides by a public number.

    Args:
        layout: how the sum is laid out.
        state: the clipping rule's state.
        total: the sum of what `encode` returned.
        divisor: public; the expected number of contributions.
        key: of the noise.

    Returns:
        The clipping rule's next state and the noised mean.
    """
    means = [
        _noised(
            part,
            _leaves_of(group, total.update),
            norm / part.lattice.target,
            key=keys.for_leaf(key, index),
        )
        .mean_over(divisor)
        .value
        for index, (group, part, norm) in enumerate(_with_norms(layout, state))
    ]
    mean = _assembled(layout, means, total.update)
    released = Released(
        value=layout.clipping.unscale(state, mean),
        num_clients=jnp.asarray(divisor, jnp.float32),
    )
    if layout.count is None:
        return layout.clipping.observe(state, released.value), released
    half = jnp.float32(0.5 / layout.count.lattice.levels)
    count_key = keys.for_leaf(key, len(layout.groups))
    shifted = _noised(layout.count, [total.count], half, key=count_key)
    share = shifted.mean_over(divisor).value[0] + 0.5
    assert isinstance(layout.clipping, clip.Adaptive)  # as `joint` made it
    return layout.clipping.adapt(state, share), released


def check_own_sampler(sampler: sampling.Sampler) -> None:
    """Refuses samplers whose part of the accounting is not proved here."""
    own = sampling.Sampler.__module__.partition("._")[0]
    if not type(sampler).__module__.startswith(own + "."):
        raise TypeError(
            "sampling must be one of jaxfed's own samplers, got "
            f"{type(sampler).__name__}; their events are proved and tested, use "
            "sampling.Poisson or sampling.Full."
        )


def check_distance(distance: float, rounds: int, params: Params) -> None:
    """Refuses runs whose noise would differ from its ideal by more than 2**-46.

    Args:
        distance: of one round.
        rounds: how many.
        params: the model, for the message.
    """
    if rounds * distance > RUN_DISTANCE:
        raise ValueError(
            f"{rounds:,} rounds of {tree.size(params):,} parameters differ from ideal "
            f"noise by up to {rounds * distance:.2g}, which must be at most 2**-46; "
            "run fewer rounds or train fewer parameters."
        )


def _with_norms(layout: Joint, state: PyTree) -> Any:
    norms = layout.clipping.norms_of(state)
    return zip(layout.groups, layout.parts, norms, strict=True)


def _leaves_of(group: Group, tree_: PyTree) -> list[jax.Array]:
    leaves = jax.tree.leaves(tree_)
    return [leaves[index] for index in group.indices]


def _assembled(layout: Joint, values: list[Any], like: PyTree) -> PyTree:
    """Puts the groups' leaves back into the structure of an update."""
    structure = jax.tree.structure(like)
    leaves: list[Any] = [None] * structure.num_leaves
    for group, of_group in zip(layout.groups, values, strict=True):
        for index, value in zip(group.indices, of_group, strict=True):
            leaves[index] = value
    return structure.unflatten(leaves)


def _noised(
    part: Part, total: list[jax.Array], step: jax.Array, *, key: jax.Array
) -> Released:
    clipped = ClippedSum(total=total, step=step, levels=part.lattice.levels)
    return part.noise.release(clipped, key=key)


def _part(dimension: int, max_contributions: int, multiplier: float) -> Part:
    lattice = _lattice.choose(
        dimension=dimension, max_clients=max_contributions, multiplier=multiplier
    )
    part = Part(lattice, noise.Gaussian(multiplier=multiplier))
    most = max_contributions * lattice.levels + part.noise.largest(lattice.levels)
    if most >= _WORD:  # cannot be: `choose` left room
        raise AssertionError((max_contributions, lattice, multiplier))
    return part
