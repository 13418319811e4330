"""The median of every coordinate.

Yin, Chen, Ramchandran and Bartlett 2018, arXiv:1803.01498, algorithm 1, option I.
"""

import dataclasses

import jax

from jaxfed.robust import _order
from jaxfed.robust._base import Rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Median(Rule):
    """The median over reports, coordinate by coordinate.

    Each coordinate lies within the range of the honest reports as long as these are
    more than half. Of an even number of reports it is the mean of the middle two.
    Exactly the same in any order of reports.
    """

    def _combine(self, rows: jax.Array, counted: jax.Array) -> jax.Array:
        return _order.middle(rows, counted)

    def describe(self) -> str:
        """Returns one clause for people."""
        return "the median of all reports, coordinate by coordinate"
