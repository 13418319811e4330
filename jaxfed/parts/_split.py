"""A tree in two: each half has None where the other has a leaf."""

import jax

from jaxfed.parts._selection import Which, names_of, selected
from jaxfed.typing import Params, PyTree


def split(params: Params, *which: Which) -> tuple[Params, Params]:
    """Returns the part that is trained, and the part that is frozen.

    Both have the structure of `params`, with None, which is no leaf, in place of what
    is in the other. So all names stay what they were, such as those of
    `clipping.PerLayer`.

    >>> params = {"encoder": {"w": 1.0, "b": 2.0}, "head": 3.0}
    >>> split(params, "head", "encoder/b")[0]
    {'encoder': {'b': 2.0, 'w': None}, 'head': 3.0}

    Args:
        params: any pytree; `merge` puts it together again.
        *which: what is trained: names of leaves, such as `"encoder/w"` (those of
            `tree.map_with_names`), beginnings of names, such as `"encoder"`, or
            functions `name -> bool`.

    Returns:
        `(trained, frozen)`.

    Raises:
        ValueError: a name is nowhere, or nothing would be trained, or nothing frozen.
        TypeError: neither a name nor a function.
    """
    names = names_of(params)
    is_trained = selected(names, which)
    if not any(is_trained):
        raise ValueError(
            "a part must hold something, got nothing of "
            f"{', '.join(map(repr, names))}; name what is trained."
        )
    if all(is_trained):
        raise ValueError(
            "something must stay frozen, got a part that is the whole model; train "
            "the model itself, without jaxfed.parts."
        )
    leaves, structure = jax.tree.flatten(params)
    pairs = list(zip(leaves, is_trained, strict=True))
    return (
        structure.unflatten([leaf if own else None for leaf, own in pairs]),
        structure.unflatten([None if own else leaf for leaf, own in pairs]),
    )


def merge(trained: Params, frozen: Params) -> Params:
    """Returns the whole of two parts: what `split` was given.

    >>> merge({"w": 1.0, "b": None}, {"w": None, "b": 2.0})
    {'b': 2.0, 'w': 1.0}

    Args:
        trained: one part.
        frozen: the other.

    Raises:
        ValueError: they are no parts of one tree.
    """
    left, structure = jax.tree.flatten(trained, is_leaf=_is_none)
    right, other = jax.tree.flatten(frozen, is_leaf=_is_none)
    if structure != other:
        raise ValueError(
            "two parts must have one structure, got\n"
            f"{structure} and\n{other}; pass both results of one split."
        )
    if any(a is not None and b is not None for a, b in zip(left, right, strict=True)):
        both = sorted(set(names_of(trained)) & set(names_of(frozen)))
        raise ValueError(
            f"two parts must share no leaf, got {', '.join(map(repr, both))} in both; "
            "pass both results of one split."
        )
    pairs = zip(left, right, strict=True)
    return structure.unflatten([b if a is None else a for a, b in pairs])


def rest_of(params: Params, part: Params) -> Params:
    """Returns the other of two parts of a model."""
    leaves, structure = jax.tree.flatten(params, is_leaf=_is_none)
    taken = jax.tree.leaves(part, is_leaf=_is_none)
    pairs = zip(leaves, taken, strict=True)
    return structure.unflatten([a if b is None else None for a, b in pairs])


def _is_none(value: PyTree) -> bool:
    return value is None
