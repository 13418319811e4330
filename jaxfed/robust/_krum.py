"""Krum and multi-Krum: the reports that are closest to their neighbours.

Blanchard, El Mhamdi, Guerraoui and Stainer 2017, arXiv:1703.02757: the Krum function,
and multi-Krum of its experiments.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jaxfed import _check as check
from jaxfed.robust._base import Rule, norms, weighted_sum


@dataclasses.dataclass(frozen=True, kw_only=True)
class Krum(Rule):
    """The mean of the `selected` reports of the lowest scores.

    Of n reports, f of them hostile, the score of a report is the sum of its squared
    distances to the n - f - 2 reports closest to it. It takes n >= 2 f + 3 for the
    theorem of the paper: **with fewer reports the value is zero**, because nobody could
    tell who is hostile. At most n - f are selected. Where scores tie for the last
    places (the paper takes whoever has the lowest number), the tied share them equally.

    Distances are sums of squared differences, report by report: no terms cancel. That
    takes memory for two copies of the reports, and time n * n * parameters.

    Args:
        attackers: f, the most that may be hostile among the clients of a round.
        selected: how many to average: 1 is Krum, more is multi-Krum.

    Raises:
        ValueError: an argument is out of range.
    """

    attackers: int
    selected: int = 1

    def __post_init__(self) -> None:
        remedy = "pass how many clients of a round may be hostile"
        attackers = check.non_negative_integer(remedy, attackers=self.attackers)
        object.__setattr__(self, "attackers", attackers)
        remedy = "1 is Krum, more is multi-Krum"
        selected = check.positive_integer(remedy, selected=self.selected)
        object.__setattr__(self, "selected", selected)

    def _combine(self, rows: jax.Array, counted: jax.Array) -> jax.Array:
        self._require(len(rows))
        count, is_other = jnp.sum(counted), ~jnp.eye(len(rows), dtype=bool)
        distances = lax.map(lambda row: norms(rows - row[None]) ** 2, rows)
        is_other &= counted[None, :]
        nearest = jnp.sort(jnp.where(is_other, distances, jnp.inf), axis=1)
        is_near = jnp.arange(len(rows)) < count - self.attackers - 2
        scores = jnp.sum(jnp.where(is_near[None, :], nearest, 0.0), axis=1)
        places = jnp.clip(count - self.attackers, 1, self.selected)
        taken = _places(jnp.where(counted, scores, jnp.inf), places)
        taken = jnp.where(count >= self.least_reports, taken, 0.0)
        return weighted_sum(rows, taken / places.astype(jnp.float32))

    @property
    def least_reports(self) -> int:
        """With fewer reports the value is zero: 2 f + 3."""
        return 2 * self.attackers + 3

    def _require(self, slots: int) -> None:
        if slots < self.least_reports:
            raise ValueError(
                f"attackers={self.attackers} needs at least 2 * attackers + 3 = "
                f"{self.least_reports} reports a round, got room for {slots}; take "
                "fewer attackers or larger cohorts."
            )

    def describe(self) -> str:
        """Returns one clause for people."""
        return (
            f"the mean of the {self.selected} reports closest to their neighbours, "
            f"supposing at most {self.attackers} hostile ones a round"
        )


def _places(scores: jax.Array, places: jax.Array) -> jax.Array:
    """Returns how much of a place each report has, (slots,) float32."""
    last = jnp.sort(scores)[places - 1]
    before, level = scores < last, scores == last
    left = (places - jnp.sum(before)).astype(jnp.float32)
    share = left / jnp.sum(level).astype(jnp.float32)
    return jnp.where(before, 1.0, jnp.where(level, share, 0.0))
