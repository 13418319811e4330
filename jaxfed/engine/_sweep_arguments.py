"""What a sweep is asked for, checked before anything runs."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import clipping, keys, privacy
from jaxfed.engine._swept import Build
from jaxfed.privacy import Privacy
from jaxfed.typing import FederatedAlgorithm

_CLIP_UPDATES = (privacy.Central, privacy.CentralCorrelated, privacy.Local)
_RESERVED = {
    "clip_norm": "pass clip_norms=[...], in place of the norm in the algorithm",
    "noise_multiplier": "pass noise_multipliers=[...], in place of the algorithm's",
    "seed": "pass seeds=[...]",
}  # columns of the table that are not arguments of `build`


def listed(name: str, values: Any) -> list[Any]:
    """Returns a list or one-dimensional array as a list; refuses an empty one."""
    is_array = getattr(values, "ndim", None) == 1
    found = values.tolist() if is_array else values
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise ValueError(
            f"{name} must be a list of at least one, got {values!r}; pass for example "
            f"{name}=[1]."
        )
    return list(found)


def roots(seeds: Any) -> list[jax.Array]:
    """Returns the root key of each seed; refuses a seed that comes twice."""
    found = listed("seeds", seeds)
    keys_ = [keys.simulated(seed) for seed in found]
    if len(set(found)) < len(found):
        raise ValueError(
            f"seeds must differ, got {found}: a run twice has no spread; pass for "
            f"example {list(range(len(found)))}."
        )
    return keys_


def values_of(settings: Any) -> dict[str, list[float]]:
    """Returns the values of each argument of `build`."""
    remedy = 'pass {"learning_rate": [0.1, 0.3]}'
    check.instance(Mapping, remedy, settings=settings)
    for name in settings:
        if name in _RESERVED:
            raise ValueError(
                f"settings must not name {name!r}, a column of its own in the table; "
                f"{_RESERVED[name]}, or rename the argument of build."
            )
    return {
        name: [check.real("settings are numbers", **{name: v}) for v in listed(name, a)]
        for name, a in settings.items()
    }


def checked_algorithm(build: Build, arguments: dict[str, float]) -> FederatedAlgorithm:
    """Returns what `build` makes of the first values, if it also works when traced.

    Raises:
        ValueError: `build` does not take these arguments.
        TypeError: it returns something else, or branches on an argument.
    """
    _check_signature(build, arguments)
    algorithm = build(**arguments)
    remedy = "return for example algorithms.fedavg(...)"
    check.instance(FederatedAlgorithm, remedy, build_result=algorithm)
    remedy = "pass privacy.central(...), or privacy.none(...) to run without"
    check.instance(Privacy, remedy, privacy=algorithm.aggregator)

    def trace(values: dict[str, jax.Array]) -> jax.Array:
        build(**values)
        return jnp.zeros(())

    shapes = {n: jax.ShapeDtypeStruct((), jnp.float32) for n in arguments}
    try:
        jax.eval_shape(trace, shapes)
    except Exception as error:
        raise TypeError(
            f"build must work with traced values of {', '.join(arguments)}, but fails: "
            f"{error}\nHand them on to optax or arithmetic only; sweep clip norms and "
            "noise by clip_norms= and noise_multipliers=."
        ) from error
    return algorithm


def _check_signature(build: Build, arguments: dict[str, float]) -> None:
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # a function that does not say what it takes
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = list(signature.parameters)
        unknown = [name for name in arguments if name not in takes]
        hint = check.nearest(unknown[0], takes) if unknown else ""
        raise ValueError(
            f"settings must name the arguments of build{signature}, got "
            f"{list(arguments)}: {error}; {hint or 'name each of these and no other.'}"
        ) from error


def norms_of(mechanism: Privacy, clip_norms: Any) -> list[float]:
    """Returns the norms; of a mechanism that clips whole updates to a fixed one."""
    if clip_norms is None:
        return [1.0]  # the mechanism keeps its own
    name, inner = type(mechanism).__name__, _inner(mechanism)
    if not isinstance(inner, _CLIP_UPDATES):
        raise ValueError(
            "clip_norms needs privacy.central or privacy.local, which clip the update "
            f"of a client, got {name}; leave clip_norms out, and compare norms by a "
            "sweep of each."
        )
    if not isinstance(inner.clipping, clipping.Fixed):
        raise ValueError(
            "clip_norms needs an algorithm with clipping.Fixed, got "
            f"{inner.clipping!r}; leave clip_norms out."
        )
    found = [
        check.positive("norms are lengths", clip_norm=norm)
        for norm in listed("clip_norms", clip_norms)
    ]
    return [clipping.Fixed(norm=norm).norm for norm in found]


def mechanisms_of(
    mechanism: Any, clip_norms: Any, multipliers: Any
) -> tuple[Privacy, ...]:
    """Returns a mechanism for each multiplier; of norm 1 where norms are swept."""
    if clip_norms is not None:  # on updates divided by their norm
        mechanism = _of_norm_one(mechanism)
    if multipliers is None:
        return (mechanism,)
    if not isinstance(mechanism, privacy.Central):
        raise ValueError(
            "noise_multipliers needs privacy.central with independent noise, got "
            f"{type(mechanism).__name__}; leave noise_multipliers out."
        )
    found = [
        check.non_negative("0 is no noise", noise_multiplier=multiplier)
        for multiplier in listed("noise_multipliers", multipliers)
    ]
    return tuple(
        dataclasses.replace(
            mechanism, noise=dataclasses.replace(mechanism.noise, multiplier=multiplier)
        )
        for multiplier in found
    )


def _inner(mechanism: Any) -> Any:
    """Returns the mechanism that clips: of a hypothetical object, what it wraps."""
    is_supposed = isinstance(mechanism, privacy.Hypothetical)
    return mechanism.privacy if is_supposed else mechanism


def _of_norm_one(mechanism: Any) -> Any:
    inner = _inner(mechanism)
    unit = dataclasses.replace(inner.clipping, norm=1.0)
    unit = dataclasses.replace(inner, clipping=unit)
    return unit if inner is mechanism else dataclasses.replace(mechanism, privacy=unit)
