"""Scaled updates: one hostile client outweighs the cohort.

Bagdasaryan, Veit, Hua, Estrin and Shmatikov 2020, arXiv:1807.00459, model replacement:
a change that counts 1 / n of a mean is multiplied by n.
"""

import jax

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.attacks._wrapper import attacked
from jaxfed.typing import LocalWork, PyTree


def scaled(local: LocalWork, *, factor: float) -> LocalWork:
    """Returns local work in which hostile clients send `factor` times their update.

    Together with `label_flip` for the same clients, their model on wrong labels
    replaces the one that others agree on.

    Args:
        local: any; honest clients do just that. Of work that sends more than a change
            of the parameters, all that it sends is changed.
        factor: > 0; the number of clients of a round replaces the model.

    Raises:
        ValueError: `factor` is out of range.
        TypeError: `local` is no local work.
    """
    check.setting(check.positive, "pass the number of clients a round", factor=factor)

    def change(update: PyTree, key: jax.Array) -> PyTree:
        del key
        return tree.scale(update, factor)

    return attacked(local, change, name="scaled", settings=f"factor={factor}")
