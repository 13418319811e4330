"""Which leaves of a tree are meant: by names, by their beginnings, or by a rule."""

import collections
from collections.abc import Callable, Sequence

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.typing import PyTree

Which = str | Callable[[str], bool]
"""A leaf's name, the beginning of several names, or `name -> bool`."""


def names_of(values: PyTree) -> list[str]:
    """Returns the names of all leaves, in the order of `jax.tree.leaves`.

    Raises:
        ValueError: two leaves have one name.
    """
    names: list[str] = []
    tree.map_with_names(lambda name, leaf: names.append(name), values)
    name, count = collections.Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise ValueError(
            f"leaves must have names of their own, got {name!r} twice; rename a "
            "key that holds '/'."
        )
    return names


def selected(names: Sequence[str], which: Sequence[Which]) -> list[bool]:
    """Returns which names are meant.

    Raises:
        ValueError: a name or beginning is nowhere.
        TypeError: neither a name nor a function.
    """
    found = [False] * len(names)
    for one in which:
        if not callable(one):
            check.instance((str,), "pass for example 'decoder'", name=one)
        fits = [bool(one(n)) if callable(one) else _belongs(n, one) for n in names]
        if not callable(one) and not any(fits):
            hint = check.nearest(one, beginnings_of(names))
            raise ValueError(
                f"a part must be named by what is in the model, got {one!r}; "
                f"{hint or 'known are ' + ', '.join(map(repr, names)) + '.'}"
            )
        found = [a or b for a, b in zip(found, fits, strict=True)]
    return found


def beginnings_of(names: Sequence[str]) -> list[str]:
    """Returns everything that names a leaf or several of them."""
    words = [name.split("/") for name in names]
    found = {"/".join(w[:n]) for w in words for n in range(1, len(w) + 1)}
    return sorted(found)


def _belongs(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(beginning + "/")
