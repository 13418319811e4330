"""Epsilon for several clients together: a household, a hospital, one person twice.

Two bounds, the smaller of which is returned. The direct one uses the mechanism: noise
that is z for one client is z / size for a group, and in Poisson sampling the number
of members who join is binomial (mixture of Gaussians; Choquette-Choo et al. 2023,
arXiv:2310.15526; Charles et al. 2024, arXiv:2401.10294). The generic one holds for
any (e, d)-private mechanism: replacing members one after the other gives
(size e, d (1 + exp(e) + ... + exp((size - 1) e))) (Vadhan 2017, lemma 2.2).
"""

import dataclasses
import math
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.accounting import _epsilon, _events, _moments, _own_events, _pld

_TRIED = 48  # deltas of a single client that are tried


def group_epsilon(
    event: Any,
    rounds: int,
    *,
    delta: float,
    size: int,
    relation: str = "zero_out",
    distance: float = 0.0,
) -> float:
    """Returns an upper bound of epsilon when `size` clients change together.

    Args:
        event: one round, as for one client.
        rounds: how many, >= 1.
        delta: strictly between 0 and 1; it is the group's.
        size: how many clients are one unit, >= 1.
        relation: what happens to each of them.
        distance: as in `epsilon`; the whole run's, whatever the size.

    Returns:
        Epsilon; infinity where no finite bound is known.
    """
    check.positive_integer("pass how many clients are one unit", size=size)
    check.positive_integer(rounds=rounds)
    check.open_probability(_epsilon._DELTA, delta=delta)
    if size == 1:
        return _epsilon.epsilon(
            event, rounds, delta=delta, relation=relation, distance=distance
        )
    parts = _events.parts(event, rounds, relation)
    if parts is None:
        return math.inf
    _epsilon.checked(parts, relation, delta)
    members = tuple((_member(leaf, size, relation), n) for leaf, n in parts)
    is_direct = all(leaf is not None for leaf, _ in members)
    if is_direct:
        _epsilon.checked(members, relation, delta)

    def bound(left: float) -> float:
        direct = math.inf
        if is_direct:
            direct = _epsilon.profile(members, relation, delta)[0](left)
        return min(direct, _generic(parts, relation, left, size))

    return _epsilon.at_distance(bound, delta, distance)


def _generic(
    parts: tuple[_events.Part, ...], relation: str, delta: float, size: int
) -> float:
    of_delta = _epsilon.profile(parts, relation, delta)[0]
    found = math.inf
    for single in np.geomspace(delta / size, _pld.LEAST_DELTA, _TRIED):
        epsilon = of_delta(float(single))
        # log of the sum of exp(i * epsilon)
        powers = float(_moments.log_sum(epsilon * np.arange(size)))
        if math.log(single) + powers <= math.log(delta):
            found = min(found, size * epsilon)
            break  # smaller deltas only cost more
    return found


def _member(leaf: Any, size: int, relation: str) -> Any:
    """Returns the event of a whole group, or None where only the generic bound is."""
    change = _MEMBERS.get(type(leaf).__name__)
    return change(leaf, size, relation) if change else None


def _scaled(field: str, power: int) -> Any:
    def scaled(leaf: Any, size: int, relation: str) -> Any:
        import attr

        del relation
        return attr.evolve(leaf, **{field: getattr(leaf, field) * size**power})

    return scaled


def _zcdp(leaf: Any, size: int, relation: str) -> Any:
    return None if leaf.xi else _scaled("rho", 2)(leaf, size, relation)


def _skellam(leaf: Any, size: int, relation: str) -> Any:
    del relation
    return dataclasses.replace(
        leaf,
        l1_sensitivity=leaf.l1_sensitivity * size,
        l2_sensitivity=leaf.l2_sensitivity * size,
    )


def _pure(leaf: Any, size: int, relation: str) -> Any:
    del relation
    return dataclasses.replace(leaf, epsilon=leaf.epsilon * size)


def _poisson(leaf: Any, size: int, relation: str) -> Any:
    if relation == "replace_one" or type(leaf.event).__name__ != "GaussianDpEvent":
        return None
    rate, noise = leaf.sampling_probability, leaf.event.noise_multiplier
    return _joining(size, rate, noise)


def _joining(size: int, rate: float, noise: float) -> Any:
    """Returns the sum when each of `size` members joins with probability `rate`."""
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
    from scipy import stats

    shares = stats.binom.pmf(np.arange(size + 1), size, rate)
    # who is too unlikely to represent joins with everybody else
    kept = shares > 1e-30
    shares[-1] += shares[~kept].sum() if not kept[-1] else 0.0
    kept[-1] = True
    shifts = tuple(float(k) for k in np.flatnonzero(kept))
    total = math.fsum(shares[kept])
    return MixtureOfGaussiansDpEvent(
        noise, shifts, tuple(float(s / total) for s in shares[kept])
    )


def _truncated(leaf: Any, size: int, relation: str) -> Any:
    if relation == "replace_one":
        return None
    return _own_events.TruncatedGroup(event=leaf, size=size)


_MEMBERS = {
    "GaussianDpEvent": _scaled("noise_multiplier", -1),
    "LaplaceDpEvent": _scaled("noise_multiplier", -1),
    "DiscreteLaplaceDpEvent": _scaled("sensitivity", 1),
    "SingleEpochTreeAggregationDpEvent": _scaled("noise_multiplier", -1),
    "ZCDpEvent": _zcdp,
    "Skellam": _skellam,
    "PureEpsilon": _pure,
    "PoissonSampledDpEvent": _poisson,
    "TruncatedSubsampledGaussianDpEvent": _truncated,
}
