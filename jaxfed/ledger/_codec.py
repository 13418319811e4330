"""Events as JSON values: the mechanisms that a ledger can hold.

Only events that an accountant here has a proof for, by name; anything else is refused
when it is written and when it is read.
"""

import numbers
from typing import Any

from jaxfed import _check as check
from jaxfed.accounting import PureEpsilon, Skellam

_FIELDS = {
    "GaussianDpEvent": ("noise_multiplier",),
    "LaplaceDpEvent": ("noise_multiplier",),
    "DiscreteLaplaceDpEvent": ("noise_parameter", "sensitivity"),
    "RandomizedResponseDpEvent": ("noise_parameter", "num_buckets"),
    "ZCDpEvent": ("rho", "xi"),
    "MixtureOfGaussiansDpEvent": (
        "standard_deviation",
        "sensitivities",
        "sampling_probs",
    ),
    "PoissonSampledDpEvent": ("sampling_probability", "event"),
    "SampledWithoutReplacementDpEvent": (
        "source_dataset_size",
        "sample_size",
        "event",
    ),
    "TruncatedSubsampledGaussianDpEvent": (
        "dataset_size",
        "sampling_probability",
        "truncated_batch_size",
        "noise_multiplier",
    ),
    "SingleEpochTreeAggregationDpEvent": ("noise_multiplier", "step_counts"),
    "SelfComposedDpEvent": ("event", "count"),
    "ComposedDpEvent": ("events",),
    "NoOpDpEvent": (),
    "PureEpsilon": ("epsilon", "relation"),
    "Skellam": ("l1_sensitivity", "l2_sensitivity", "variance"),
}
_OWN = {"PureEpsilon": PureEpsilon, "Skellam": Skellam}


def to_values(event: Any) -> dict[str, Any]:
    """Returns an event, or a list of events, as plain values.

    Raises:
        ValueError: no accountant here has a proof for it.
    """
    if isinstance(event, list | tuple):
        return {"kind": "ComposedDpEvent", "events": [to_values(e) for e in event]}
    kind = type(event).__name__
    if kind == "NonPrivateDpEvent":
        raise ValueError(
            "event must have privacy, got NonPrivateDpEvent; no budget pays for it: "
            "use privacy.central(...) with noise."
        )
    if kind not in _FIELDS:
        raise ValueError(
            f"event must be one that can be accounted, got {kind}; let "
            "`privacy.event(rounds=1)` build it."
        )
    fields = {name: _plain(getattr(event, name)) for name in _FIELDS[kind]}
    return {"kind": kind, **fields}


def from_values(values: Any) -> Any:
    """Rebuilds what `to_values` returned.

    Raises:
        ValueError: it is not that.
    """
    check.instance(dict, "pass what to_values returned", values=values)
    kind = values.get("kind")
    fields = {name: value for name, value in values.items() if name != "kind"}
    if kind not in _FIELDS or set(fields) != set(_FIELDS[kind]):
        raise ValueError(
            f"event must be one that this version knows, got {kind!r} with "
            f"{sorted(fields)}; was it written by a newer version of jaxfed?"
        )
    fields = {name: _rebuilt(value) for name, value in fields.items()}
    if kind in _OWN:
        return _OWN[kind](**fields)
    from dp_accounting import dp_event

    return getattr(dp_event, kind)(**fields)


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return to_values(value)


def _rebuilt(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuilt(each) for each in value]
    return from_values(value) if isinstance(value, dict) else value
