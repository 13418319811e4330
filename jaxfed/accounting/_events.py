"""Events: what can be accounted, under which relation, in a form that can be cached.

`parts` flattens a tree of dp-accounting events into simple ones with counts, merges
equal ones, and refuses by name whatever no accountant here can handle. Composition
may be adaptive in the queries; in the events themselves only under `RenyiFilter`.

Relations, in the words of `jaxfed.privacy`: `"zero_out"`, one client's data is
left out and the population is public; `"replace_one"`, it is replaced by
other data, which moves a sum twice as far; `"add_remove"`, the client is added or
removed, which has a meaning only where the cohort's law does not depend on who else
is there. An event's noise multiplier is relative to one client's contribution, and
`"replace_one"` counts it twice; sampling without replacement alone, which has no other
relation, follows dp-accounting: its multiplier is relative to twice that already.
"""

import math
from typing import TYPE_CHECKING, Any

from jaxfed import _check as check
from jaxfed.accounting._own_events import Skellam

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dp_accounting import NeighboringRelation

RELATIONS = ("zero_out", "replace_one", "add_remove")
Part = tuple[Any, int]  # a simple event and how many times it is used

# Of the sensitivity; less noise than that counts as none, whatever float64 makes of it.
_LEAST_NOISE, _MOST_LOSS = 1e-6, 1e6
_REMEDY = "let `privacy.event(rounds=1)` build it"
_FIXED_COHORT = ("zero_out", "replace_one")
# which relations each simple event can be accounted under
_SIMPLE = {
    "GaussianDpEvent": RELATIONS,
    "LaplaceDpEvent": RELATIONS,
    "DiscreteLaplaceDpEvent": RELATIONS,
    "ZCDpEvent": RELATIONS,
    "RandomizedResponseDpEvent": _FIXED_COHORT,
    "MixtureOfGaussiansDpEvent": ("zero_out", "add_remove"),
    "PoissonSampledDpEvent": RELATIONS,
    "TruncatedSubsampledGaussianDpEvent": _FIXED_COHORT,
    "SampledWithoutReplacementDpEvent": ("replace_one",),
    "SingleEpochTreeAggregationDpEvent": _FIXED_COHORT,
    "PureEpsilon": _FIXED_COHORT,
    "Skellam": _FIXED_COHORT,
}


def upstream(relation: str) -> "NeighboringRelation":
    """Returns dp-accounting's word for a relation."""
    from dp_accounting import NeighboringRelation as Relation

    check.one_of(RELATIONS, relation=relation)
    return {
        "zero_out": Relation.REPLACE_SPECIAL,
        "replace_one": Relation.REPLACE_ONE,
        "add_remove": Relation.ADD_OR_REMOVE_ONE,
    }[relation]


def factor(relation: str) -> int:
    """Returns how many times the zero-out sensitivity one client moves a sum."""
    return 2 if relation == "replace_one" else 1


def parts(event: Any, count: int, relation: str) -> tuple[Part, ...] | None:
    """Returns the simple events in `count` uses of `event`, in order of appearance.

    Args:
        event: an event of dp-accounting or of jaxfed, or a list or tuple of those,
            which stands for their composition.
        count: how many times, >= 1.
        relation: the neighbouring relation.

    Returns:
        Simple events, each with its count, equal ones merged; None where nothing is
        promised, because the tree holds an event without privacy.

    Raises:
        ValueError: an event cannot be accounted (under this relation).
    """
    check.one_of(RELATIONS, relation=relation)
    check.positive_integer("pass how many rounds are run", count=count)
    merged: dict[Any, int] = {}
    private = True
    for leaf, times in _leaves(event, count):
        if leaf is None:
            private = False
            continue
        _require_relation(leaf, relation)
        merged[leaf] = merged.get(leaf, 0) + times
    return tuple(merged.items()) if private else None


def _leaves(event: Any, count: int) -> "Iterator[tuple[Any, int]]":
    kind = type(event).__name__
    if isinstance(event, list | tuple):
        for each in event:
            yield from _leaves(each, count)
    elif kind == "ComposedDpEvent":
        yield from _leaves(list(event.events), count)
    elif kind == "SelfComposedDpEvent":
        times = check.positive_integer(
            "leave out what is not run", count_of_self_composed_event=event.count
        )
        yield from _leaves(event.event, count * times)
    elif kind == "NonPrivateDpEvent":
        yield None, count
    elif kind in _SIMPLE:
        leaf = _simplified(event)
        if kind in _SILENT and _SILENT[kind](event):
            return
        yield leaf, count
    elif kind != "NoOpDpEvent":
        raise ValueError(
            f"event must be one that can be accounted, got {kind}; no accountant here "
            f"has a proof for it: {_REMEDY}."
        )


_SILENT = {  # events that release nothing about the client
    "PoissonSampledDpEvent": lambda e: e.sampling_probability == 0,
    "TruncatedSubsampledGaussianDpEvent": lambda e: (
        not (e.sampling_probability and e.truncated_batch_size and e.dataset_size)
    ),
    "RandomizedResponseDpEvent": lambda e: e.num_buckets == 1 or e.noise_parameter == 1,
    "PureEpsilon": lambda e: e.epsilon == 0,
    "Skellam": lambda e: e.l1_sensitivity == 0 and e.l2_sensitivity == 0,
    "ZCDpEvent": lambda e: e.rho == 0 and e.xi == 0,
}


def _simplified(event: Any) -> Any:
    """Returns a hashable equal of a simple event, or None if it is not private."""
    return _SIMPLIFY.get(type(event).__name__, _with_noise)(event)


def _with_noise(event: Any) -> Any:
    if hasattr(event, "noise_multiplier"):
        check.non_negative(noise_multiplier=event.noise_multiplier)
        return event if event.noise_multiplier >= _LEAST_NOISE else None
    return event


def _pure(event: Any) -> Any:
    return event if event.epsilon <= _MOST_LOSS else None


def _discrete_laplace(event: Any) -> Any:
    check.non_negative(noise_parameter=event.noise_parameter)
    check.positive_integer(sensitivity=event.sensitivity)
    return event if event.noise_parameter <= _MOST_LOSS else None


def _zcdp(event: Any) -> Any:
    check.non_negative(rho=event.rho)
    check.non_negative(xi=event.xi)
    return event


def _randomized_response(event: Any) -> Any:
    _rate(noise_parameter=event.noise_parameter)
    check.positive_integer(num_buckets=event.num_buckets)
    return event if event.noise_parameter else None


def _mixture(event: Any) -> Any:
    import attr

    check.non_negative(standard_deviation=event.standard_deviation)
    shifts, weights = tuple(event.sensitivities), tuple(event.sampling_probs)
    if len(shifts) != len(weights) or abs(sum(weights) - 1) > 1e-9:
        raise ValueError(
            f"sampling_probs must be one probability per sensitivity with sum 1, got "
            f"{weights} for {shifts}; pass equally many that add up to 1."
        )
    least = _LEAST_NOISE * max(map(abs, shifts), default=0.0)
    if not event.standard_deviation > least:
        return None
    return attr.evolve(event, sensitivities=shifts, sampling_probs=weights)


def _poisson(event: Any) -> Any:
    import attr

    rate = _rate(sampling_probability=event.sampling_probability)
    inner: Any = event.event
    if type(inner).__name__ != "LaplaceDpEvent":
        inner = _one_gaussian(inner, "PoissonSampledDpEvent")
    if inner is None or not inner.noise_multiplier >= _LEAST_NOISE:
        return None if rate else event
    return inner if rate == 1 else attr.evolve(event, event=inner)


def _truncated(event: Any) -> Any:
    _rate(sampling_probability=event.sampling_probability)
    check.non_negative(noise_multiplier=event.noise_multiplier)
    check.non_negative_integer(dataset_size=event.dataset_size)
    check.non_negative_integer(truncated_batch_size=event.truncated_batch_size)
    silent = _SILENT[type(event).__name__](event)
    return event if event.noise_multiplier >= _LEAST_NOISE or silent else None


def _without_replacement(event: Any) -> Any:
    import attr

    population = check.positive_integer(source_dataset_size=event.source_dataset_size)
    size = check.positive_integer(sample_size=event.sample_size)
    if size > population:
        raise ValueError(
            f"sample_size must be <= source_dataset_size = {population}, got {size}; "
            "a cohort cannot hold more clients than exist."
        )
    inner = _one_gaussian(event.event, "SampledWithoutReplacementDpEvent")
    if inner is None or not inner.noise_multiplier >= _LEAST_NOISE:
        return None
    if size == population:  # a Gaussian, whose multiplier is over one contribution
        return attr.evolve(inner, noise_multiplier=2 * inner.noise_multiplier)
    return attr.evolve(event, event=inner)


def _tree(event: Any) -> Any:
    from dp_accounting import SingleEpochTreeAggregationDpEvent

    check.non_negative(noise_multiplier=event.noise_multiplier)
    steps = event.step_counts
    largest = steps if isinstance(steps, int) else max(steps, default=0)
    check.positive_integer("pass how many steps a tree has", step_counts=largest)
    if not event.noise_multiplier >= _LEAST_NOISE:
        return None
    return SingleEpochTreeAggregationDpEvent(event.noise_multiplier, largest)


def _skellam(event: Skellam) -> Any:
    return event if event.variance or _SILENT["Skellam"](event) else None


_SIMPLIFY = {
    "PureEpsilon": _pure,
    "DiscreteLaplaceDpEvent": _discrete_laplace,
    "ZCDpEvent": _zcdp,
    "RandomizedResponseDpEvent": _randomized_response,
    "MixtureOfGaussiansDpEvent": _mixture,
    "PoissonSampledDpEvent": _poisson,
    "TruncatedSubsampledGaussianDpEvent": _truncated,
    "SampledWithoutReplacementDpEvent": _without_replacement,
    "SingleEpochTreeAggregationDpEvent": _tree,
    "Skellam": _skellam,
}


def _rate(**named: Any) -> float:
    ((name, value),) = named.items()
    if not 0 <= check.real(**named) <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}; pass a share.")
    return float(value)


def _one_gaussian(event: Any, inside: str) -> Any:
    """Returns the one Gaussian that equals several on the same cohort.

    Thakkar, Andrew, McMahan 2019, arXiv:1812.06210, section 3.
    """
    from dp_accounting import GaussianDpEvent

    leaves = list(_leaves(event, 1))
    if any(leaf is None for leaf, _ in leaves):
        return None
    kinds = {type(leaf).__name__ for leaf, _ in leaves}
    if kinds != {"GaussianDpEvent"}:
        raise ValueError(
            f"the event in a {inside} must be a Gaussian, got "
            f"{', '.join(sorted(kinds)) or 'none'}; {_REMEDY}."
        )
    if len(leaves) == 1 and leaves[0][1] == 1:
        return leaves[0][0]
    precision = math.fsum(count / g.noise_multiplier**2 for g, count in leaves)
    return GaussianDpEvent(precision**-0.5)


def _require_relation(leaf: Any, relation: str) -> None:
    kind = type(leaf).__name__
    allowed = _SIMPLE[kind]
    inner = type(getattr(leaf, "event", None)).__name__
    if kind == "PoissonSampledDpEvent" and inner == "LaplaceDpEvent":
        allowed = ("zero_out", "add_remove")
    if kind == "ZCDpEvent" and leaf.xi:
        allowed = ("zero_out", "add_remove")
    if relation not in allowed:
        words = " or ".join(map(repr, allowed))
        raise ValueError(
            f"relation must be {words} for a {kind}, got {relation!r}; "
            "no bound is proved for that pair here."
        )
