"""LoRA: matrices stay as they are, and a product of two thin ones is added.

Hu et al. 2021, arXiv:2106.09685, equation 3: h = W0 x + (alpha / r) B A x, with A drawn
from a Gaussian and B zero. Here a kernel takes inputs from the left, as in flax:
W0 + (alpha / rank) a @ b.

With `parts.split(adapters, "b")` it is FFA-LoRA (Sun et al. 2024, arXiv:2403.12313,
section 4): a stays as it was drawn, and b alone is trained. Then what is released is
linear in what clients send: the mean of their models is the model of their mean, and
noise is not multiplied by noise.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import keys
from jaxfed.parts._held import constants_of
from jaxfed.parts._selection import Which, beginnings_of, names_of, selected
from jaxfed.typing import Params

Adapters = dict[str, dict[str, jax.Array]]
"""`{"a": {name: (inputs, rank)}, "b": {name: (rank, outputs)}}`, by kernels' names."""


def init(params: Params, *which: Which, rank: int, key: jax.Array) -> Adapters:
    """Returns adapters that change nothing yet: a is random, b is zero.

    Args:
        params: a pretrained model's, linen or nnx or any other pytree.
        *which: what gets adapters: names, beginnings of names, or functions
            `name -> bool`, as in `parts.split`; leaves of fewer than two axes get none.
            Without, all whose names end in `kernel`. A kernel of more axes, of an
            attention or a convolution, is taken as the matrix of its first axes by
            its last that has the smallest adapters: in attention, of inputs by
            outputs.
        rank: the width of what is added, >= 1.
        key: draws a, which is public: normal with variance 1 / inputs.

    Returns:
        `{"a": {name: (inputs, rank)}, "b": {name: (rank, outputs)}}`, float32.

    Raises:
        ValueError: nothing, or what is nowhere, would get adapters; or `rank` is more
            than a kernel has.
        TypeError: `key` is no key, or a kernel holds no floating-point numbers.
    """
    rank = check.positive_integer("pass for example rank=4", rank=rank)
    key = check.key(key=key)
    names, leaves = names_of(params), jax.tree.leaves(params)
    chosen = selected(names, which or [lambda name: name.endswith("kernel")])
    sides = {
        name: sides_of(leaf.shape)
        for name, leaf, own in zip(names, leaves, chosen, strict=True)
        if own and len(leaf.shape) >= 2
    }
    if not sides:
        raise ValueError(
            "adapters must be of arrays of two axes or more, got none; name some of "
            f"{', '.join(map(repr, beginnings_of(names)))}."
        )
    for name, leaf in zip(names, leaves, strict=True):
        if name in sides:
            _check_floating(name, leaf)
    for name, (inputs, outputs) in sides.items():
        if rank > min(inputs, outputs):
            raise ValueError(
                f"rank must be <= {min(inputs, outputs)} for {name!r}, a matrix of "
                f"{inputs} by {outputs}, got {rank}; leave it out, and train it whole."
            )
    a = {
        name: jax.random.normal(keys.for_leaf(key, number), (inputs, rank))
        / math.sqrt(inputs)
        for number, (name, (inputs, _)) in enumerate(sides.items())
    }
    b = {name: jnp.zeros((rank, outputs)) for name, (_, outputs) in sides.items()}
    return {"a": a, "b": b}


def merge(params: Params, adapters: Adapters, *, alpha: float) -> Params:
    """Returns the whole model: every adapted kernel plus `alpha / rank` times a @ b.

    Args:
        params: what `init` was given.
        adapters: trained or not.
        alpha: how much they count, > 0.

    Raises:
        ValueError: the adapters are of another model, or `alpha` is out of range.
        TypeError: a kernel holds no floating-point numbers.
    """
    check.setting(check.positive, "pass for example alpha=8.0", alpha=alpha)
    names = names_of(params)
    if set(adapters) != {"a", "b"} or any(
        leaf is None for side in adapters.values() for leaf in side.values()
    ):
        raise ValueError(
            f"adapters must have all of 'a' and 'b', got {names_of(adapters)}; merge "
            "both parts of a split first."
        )
    a, b = adapters["a"], adapters["b"]
    strange = sorted((set(a) ^ set(b)) | set(a) - set(names))
    if strange:
        raise ValueError(
            f"adapters must be those of the model, got {', '.join(map(repr, strange))};"
            " pass the params that they were made for."
        )
    leaves, structure = jax.tree.flatten(params)
    changed = [
        _adapted(name, leaf, a[name], b[name], alpha) if name in a else leaf
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return structure.unflatten(changed)


def hold(
    function: Callable[..., Any], params: Params, *, alpha: float
) -> Callable[..., Any]:
    """Returns a function of the adapters from one of the whole model.

    Args:
        function: `(params, ...) -> anything`, pure: a loss, or a prediction.
        params: the pretrained model's. Copied; must be public, or paid for.
        alpha: as in `merge`.

    Returns:
        `(adapters, ...) -> anything`.

    Raises:
        ValueError: `alpha` is out of range.
        TypeError: `function` is none.
    """
    check.function("write (params, batch, key) -> (loss, metrics)", function=function)
    check.setting(check.positive, "pass for example alpha=8.0", alpha=alpha)
    constants = constants_of(params)

    def of_adapters(adapters: Adapters, *arguments: Any, **options: Any) -> Any:
        whole = merge(constants(), adapters, alpha=alpha)
        return function(whole, *arguments, **options)

    return of_adapters


def sides_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the sides of a kernel as a matrix: the cut with the smallest adapters.

    >>> sides_of((64, 4, 16)), sides_of((4, 16, 64)), sides_of((3, 3, 32, 64))
    ((64, 64), (64, 64), (288, 64))
    """
    cuts = [
        (math.prod(shape[:axis]), math.prod(shape[axis:]))
        for axis in range(1, len(shape))
    ]
    return min(cuts, key=sum)


def _adapted(
    name: str, kernel: jax.Array, a: jax.Array, b: jax.Array, alpha: float
) -> jax.Array:
    inputs, outputs = sides_of(kernel.shape)
    if (a.shape[0], b.shape[1]) != (inputs, outputs) or a.shape[1] != b.shape[0]:
        raise ValueError(
            f"adapters of {name!r} must be ({inputs}, rank) and (rank, {outputs}), got "
            f"{a.shape} and {b.shape}; pass the params that they were made for."
        )
    _check_floating(name, kernel)
    change = (alpha / a.shape[1]) * (a @ b)
    return kernel + change.reshape(kernel.shape).astype(kernel.dtype)


def _check_floating(name: str, kernel: jax.Array) -> None:
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise TypeError(
            f"{name!r} must hold floating-point numbers, got {kernel.dtype}, which "
            "nothing small can be added to; dequantise it, or leave it out."
        )
