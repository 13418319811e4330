"""What a plan promises to vaults, from the privacy object that will draw the noise."""

import math
from typing import Any

import jax
import numpy as np

from jaxfed import accounting, clipping, keys, noise
from jaxfed.clipping._lattice import Lattice
from jaxfed.ledger._book import Terms
from jaxfed.privacy import Privacy
from jaxfed.privacy._central import Central
from jaxfed.privacy._central_correlated import CentralCorrelated
from jaxfed.privacy._local import Local
from jaxfed.typing import Params, PyTree

Sums = Central | CentralCorrelated | Local  # what vaults take part in

# of Poisson cohorts that are too small to be released, over a whole run
_MOST_TAIL = 2.0**-60


def rules_of(
    privacy: Sums,
    sent: PyTree,
    *,
    rounds: int,
    terms: Terms,
    least_cohort: int,
) -> dict[str, Any]:
    """Returns the rules of a plan: plain values, public.

    Args:
        privacy: `privacy.central(...)`.
        sent: like what clients send.
        rounds: how many are planned.
        terms: of the ledger that pays.
        least_cohort: reports without which no round is released.

    Raises:
        ValueError: vaults cannot keep this privacy object's part.
    """
    participation = privacy.sampling.participation(rounds)
    check_cohorts(privacy, rounds, least_cohort)
    cost = privacy.cost(rounds, relation=terms.relation)
    epsilon = accounting.epsilon(
        cost.event,
        cost.uses(rounds),
        delta=terms.delta,
        relation=terms.relation,
        distance=cost.distance,
    )
    if not math.isfinite(epsilon):
        raise accounting.BudgetExhausted(
            f"{rounds} rounds must cost a finite epsilon at delta {terms.delta:g}, got "
            "infinity; use more noise: privacy.calibrated(epsilon=..., rounds=...)."
        )
    groups, count = _groups(privacy, sent)
    return {
        "mechanism": _mechanism(privacy),
        "unit": terms.unit,
        "relation": terms.relation,
        "epsilon": float(epsilon),
        "delta": float(terms.delta),
        "noise_multiplier": multiplier_of(privacy),
        "rounds": rounds,
        "clients": privacy.sampling.population,
        "least_cohort": least_cohort,
        "least_separation": participation.min_separation,
        "most_participations": participation.max_participations,
        "clip_is_fixed": count == 0,
        "noise_scale": _local(privacy).scale if isinstance(privacy, Local) else 0.0,
        "shift": _local(privacy).shift if isinstance(privacy, Local) else 0,
        "count_levels": count,
        "groups": groups,
    }


def norms_of(privacy: Sums, state: Any) -> np.ndarray:
    """Returns the clip norms of a round, (groups,) float32; public."""
    if isinstance(privacy, CentralCorrelated | Local):
        return np.array([privacy.clipping.norm], np.float32)
    norms = privacy.clipping.norms_of(state)
    return np.array(jax.device_get(norms), np.float32)


def check_cohorts(privacy: Privacy, rounds: int, least_cohort: int) -> None:
    """Refuses samplers that draw cohorts too small to be released.

    To skip such a round would tell how many were drawn, and nothing accounts for that.

    Raises:
        ValueError: such a cohort is not as good as impossible.
    """
    sampler = privacy.sampling
    remedy = "lower least_cohort, or let more clients take part"
    if not 1 <= least_cohort <= sampler.max_clients:
        raise ValueError(
            f"least_cohort must be in [1, {sampler.max_clients}], the largest cohort, "
            f"got {least_cohort}; {remedy}."
        )
    if isinstance(privacy, Local):  # a report hides by itself, whoever else comes
        return
    rate = getattr(sampler, "rate", None)
    if rate is None:
        size = _least_drawn(sampler, rounds)
        if size < least_cohort:
            raise ValueError(
                f"least_cohort must be <= {size}, the smallest cohort that is drawn, "
                f"got {least_cohort}; {remedy}."
            )
        return
    tail = rounds * _below(least_cohort, sampler.population, rate)
    if tail > _MOST_TAIL:
        raise ValueError(
            f"cohorts of fewer than least_cohort = {least_cohort} clients must be as "
            f"good as impossible, but come with probability {tail:.2g} in {rounds} "
            f"rounds at rate {rate:g}; {remedy}."
        )


def amplifies(privacy: Privacy) -> bool:
    """Returns whether the guarantee counts on cohorts that nobody sees."""
    event = type(privacy.sampling.event(1.0)).__name__
    return event != "GaussianDpEvent"


def checked(privacy: Privacy) -> Sums:
    """Returns a privacy object whose clients' part vaults can do.

    Raises:
        ValueError: it is another one.
    """
    if not isinstance(privacy, Sums) or isinstance(privacy.noise, noise.PrivUnit):
        raise ValueError(
            "vaults take part in privacy.central(...), and in privacy.local(...) with "
            f"noise.Gaussian or Laplace, got {privacy!r}."
        )
    if isinstance(privacy.clipping, clipping.Scaled):
        raise ValueError(
            "vaults cannot scale updates by what was released before, got "
            "clipping.Scaled; use clipping.Fixed, Adaptive or PerLayer."
        )
    return privacy


def multiplier_of(privacy: Sums) -> float:
    """Returns noise over the clip norm."""
    assert not isinstance(privacy.noise, noise.PrivUnit)  # as it was checked
    return float(privacy.noise.multiplier)


def _mechanism(privacy: Sums) -> str:
    if isinstance(privacy, Local):
        return f"local {type(privacy.noise).__name__.lower()}"
    if isinstance(privacy, CentralCorrelated):
        return "central correlated"
    is_skellam = isinstance(privacy.noise, noise.Skellam)
    return "central skellam" if is_skellam else "central gaussian"


def _groups(privacy: Sums, params: Params) -> tuple[list[Any], int]:
    """Returns what is clipped together, and the levels of a clip's own report."""
    if isinstance(privacy, Central):
        return _joint_groups(privacy, params)
    if isinstance(privacy, Local):
        levels = _local(privacy).levels
        fine = Lattice(levels=levels, target=levels, is_random=False)
        return _one_group(privacy.clipping.norm, fine, params), 0
    lattice = privacy._layout(params).lattice
    return _one_group(privacy.clipping.norm, lattice, params), 0


def _joint_groups(privacy: Central, params: Params) -> tuple[list[Any], int]:
    layout = privacy._joint(params)
    norms = layout.clipping.norms_of(layout.clipping.init(params))
    count = 0 if layout.count is None else layout.count.lattice.levels
    parts = zip(layout.groups, norms, layout.parts, strict=True)
    return [_group(g.indices, n, p.lattice) for g, n, p in parts], count


def _one_group(norm: float, lattice: Lattice, params: Params) -> list[Any]:
    return [_group(range(len(jax.tree.leaves(params))), norm, lattice)]


def _local(privacy: Local) -> Any:
    return privacy._report()


def _group(indices: Any, norm: Any, lattice: Any) -> dict[str, Any]:
    return {
        "indices": list(indices),
        "norm": float(norm),
        "levels": lattice.levels,
        "target": lattice.target,
        "is_random": lattice.is_random,
    }


def _least_drawn(sampler: Any, rounds: int) -> int:
    """Returns the smallest cohort of a sampler without a rate; its sizes are public."""
    key = keys.simulated(0)
    sizes = {len(sampler.draw(index, key=key)) for index in range(min(rounds, 64))}
    return min(sizes)


def _below(least: int, population: int, rate: float) -> float:
    """Returns P(Binomial(population, rate) < least), from logarithms."""
    if rate >= 1:
        return 0.0 if least <= population else 1.0
    logs = (
        math.lgamma(population + 1)
        - math.lgamma(count + 1)
        - math.lgamma(population - count + 1)
        + count * math.log(rate)
        + (population - count) * math.log1p(-rate)
        for count in range(least)
    )
    return math.fsum(map(math.exp, logs))
