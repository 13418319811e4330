"""Sign flipping: hostile clients pull the other way.

Li, Xu, Chen, Giannakis and Ling 2019, arXiv:1811.03761: the sign-flipping attack.
"""

import jax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.attacks._wrapper import attacked
from jaxfed.typing import LocalWork, PyTree


def sign_flip(local: LocalWork, *, scale: float = 1.0) -> LocalWork:
    """Returns local work in which hostile clients send -`scale` times their update.

    Args:
        local: any; honest clients do just that. Of work that sends more than a change
            of the parameters, all that it sends is changed.
        scale: how much of it, > 0.

    Raises:
        ValueError: `scale` is out of range.
        TypeError: `local` is no local work.
    """
    check.setting(check.positive, "1.0 keeps the norm", scale=scale)

    def change(update: PyTree, key: jax.Array) -> PyTree:
        del key
        return tree.scale(update, -scale)

    return attacked(local, change, name="sign_flip", settings=f"scale={scale}")
