"""Robust aggregation, with no privacy by its type: every report is read by itself.

The rules: `jaxfed.robust`. Yin et al. 2018, arXiv:1803.01498; Blanchard et al. 2017,
arXiv:1703.02757; Pillutla et al. 2019, arXiv:1912.13445.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed import robust, tree
from jaxfed.privacy._none import Unprotected
from jaxfed.sampling import Sampler
from jaxfed.typing import ClientResult, PyTree, Released


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryReport(Unprotected):
    """A robust rule over all reports of a round. Gives no guarantee.

    It is no sum: an engine keeps the reports of a whole cohort side by side, so that
    memory grows with the cohort, secure aggregation cannot hide them, and no plan for
    vaults is made of it. Clients weigh alike, whatever they report.

    Args:
        sampling: which clients take part in a round.
        rule: for example `robust.Median()`.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: cohorts are smaller on average than the rule needs.
    """

    keeps_reports: ClassVar[bool] = True

    rule: robust.Rule

    def __post_init__(self) -> None:
        super().__post_init__()
        check.instance(robust.Rule, "pass for example robust.Median()", rule=self.rule)
        expected = round(self.sampling.expected_clients, 6)  # a rate is a float
        least = self.rule.least_reports
        if least > max(expected, 1):  # empty cohorts are known to move nothing
            raise ValueError(
                f"cohorts must have {least} clients or more for {self.rule!r}, got "
                f"{expected:g} on average from {self.sampling!r}: rounds of fewer move "
                "nothing; draw more, or suppose fewer attackers."
            )

    def encode_counted(
        self, state: PyTree, result: ClientResult, *, key: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """Returns the update and True, or zeros and False; and whether it is finite."""
        del state, key
        report = {
            "update": tree.astype(result.update, jnp.float32),
            "counts": jnp.ones((), jnp.bool_),
        }
        ok = tree.is_finite(report["update"])
        return tree.where(ok, report, tree.zeros_like(report)), ok

    def release(
        self, state: PyTree, total: PyTree, *, key: jax.Array
    ) -> tuple[PyTree, Released]:
        """Returns what the rule makes of all reports, leaves (clients, ...)."""
        del key
        value = self.rule.combine(total["update"], total["counts"])
        count = jnp.sum(total["counts"].astype(jnp.float32))
        return state, Released(value=value, num_clients=count)

    def _reason(self) -> str:
        return (
            f"The release is {self.rule.describe()}, made of every single report: it "
            "is no sum of bounded terms, has no noise, and may reveal any client's "
            "data (epsilon is infinite)."
        )


def every_report(*, sampling: Sampler, rule: robust.Rule) -> EveryReport:
    """Returns a robust aggregator without any privacy guarantee; see `EveryReport`."""
    return EveryReport(sampling=sampling, rule=rule)
