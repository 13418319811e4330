"""Functions of a part that hold the rest."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed.parts._split import merge
from jaxfed.typing import Params, PyTree


def hold(function: Callable[..., Any], frozen: Params) -> Callable[..., Any]:
    """Returns a function of the trained part from one of the whole model.

    Losses and predictions alike: `hold(loss_fn, frozen)` is what clients train,
    `hold(predict, frozen)` what is evaluated. The values of the frozen part are
    constants of what is compiled; a run with others is another run to a ledger and to
    a checkpoint, and vaults get them once, inside the plan.

    Args:
        function: `(params, ...) -> anything`, pure.
        frozen: of `split`. Copied; must be public, or paid for.

    Returns:
        `(trained, ...) -> anything`.

    Raises:
        TypeError: `function` is none.
    """
    check.function("write (params, batch, key) -> (loss, metrics)", function=function)
    constants = constants_of(frozen)

    def of_part(trained: Params, *arguments: Any, **options: Any) -> Any:
        return function(merge(trained, constants()), *arguments, **options)

    return of_part


def constants_of(values: PyTree) -> Callable[[], PyTree]:
    """Returns a function that gives arrays as they are now, on whatever device asks."""
    kept = jax.tree.map(np.array, values)
    return lambda: jax.tree.map(jnp.asarray, kept)
