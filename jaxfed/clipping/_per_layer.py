"""Per-layer clipping: parts of an update, each to a norm of its own.

McMahan et al. 2018, arXiv:1710.06963, section 3 ("per-layer clipping"). The noise of a
round is split between the groups so that the expected squared error is least: with
norms C_g and d_g scalars a group, minimising the sum of d_g sigma_g**2 under
`sum (C_g / sigma_g)**2 = 1 / z**2` gives sigma_g**2 proportional to C_g / sqrt(d_g).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfed import tree
from jaxfed.clipping._base import Clipping, Group, checked_norm
from jaxfed.typing import Params, PyTree

_REMEDY = "typical updates of a layer have norms between 0.01 and 10"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerLayer(Clipping):
    """Clips groups of leaves, each to its own fixed L2 norm.

    All groups together are one Gaussian release of the privacy object's multiplier;
    splitting costs nothing in epsilon.

    Args:
        norms: `{"encoder": 0.5, "head/bias": 0.1}`: a norm for each group, named by
            the beginning of its leaves' paths (`layer/kernel`, as in
            `tree.map_with_names`); `""` names all remaining leaves. A leaf belongs to
            the longest name that fits.
    """

    norms: Any

    def __post_init__(self) -> None:
        given = self.norms
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            named = {str(name): norm for name, norm in pairs}
        except (TypeError, ValueError):
            named = {}
        if not named or len(named) != len(list(pairs)):
            raise ValueError(
                f"norms must name each group once, got {given!r}; pass for example "
                "norms={'encoder': 0.5, '': 0.1}."
            )
        checked = ((n, checked_norm(_REMEDY, norm=c)) for n, c in named.items())
        object.__setattr__(self, "norms", tuple(sorted(checked)))

    def groups(self, params: Params) -> tuple[Group, ...]:
        """Returns the groups in the order of their names.

        Raises:
            ValueError: a leaf has no group, or a group has no leaf.
        """
        names: list[str] = []
        sizes: list[int] = []

        def note(name: str, leaf: jax.Array) -> None:
            names.append(name)
            sizes.append(math.prod(jnp.shape(leaf)))

        tree.map_with_names(note, params)
        members: dict[str, list[int]] = {name: [] for name, _ in self.norms}
        for index, name in enumerate(names):
            fitting = [group for group in members if _belongs(name, group)]
            if not fitting:
                raise ValueError(
                    f"norms must cover every parameter, got none for {name!r}; add "
                    f"{name.partition('/')[0]!r}, or '' for all that remain."
                )
            members[max(fitting, key=len)].append(index)
        for group, indices in members.items():
            if not indices:
                raise ValueError(
                    f"norms must name parts of the model, got {group!r}, which holds "
                    f"no parameter; known are {', '.join(map(repr, names))}."
                )
        dimensions = [sum(sizes[i] for i in found) for found in members.values()]
        weights = [
            norm * math.sqrt(max(d, 1))
            for (_, norm), d in zip(self.norms, dimensions, strict=True)
        ]
        return tuple(
            Group(tuple(indices), dimension, weight / sum(weights))
            for indices, dimension, weight in zip(
                members.values(), dimensions, weights, strict=True
            )
        )

    def init(self, params: Params) -> PyTree:
        """Returns `()`: there is no state."""
        del params
        return ()

    def norms_of(self, state: PyTree) -> tuple[jax.Array, ...]:
        """Returns each group's norm."""
        del state
        return tuple(jnp.float32(norm) for _, norm in self.norms)

    @property
    def initial_norm(self) -> float:
        """The root of the sum of squared norms."""
        return math.hypot(*(norm for _, norm in self.norms))

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        parts = ", ".join(f"{name or 'the rest'} to {c:g}" for name, c in self.norms)
        return f"each update is clipped part by part in L2 norm ({parts})"


def _belongs(name: str, group: str) -> bool:
    return not group or name == group or name.startswith(group + "/")
