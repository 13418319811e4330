"""Events that dp-accounting does not have, each with the paper that bounds it."""

import dataclasses
import math
from typing import Any

from jaxfed import _check as check

RELATIONS = ("zero_out", "replace_one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PureEpsilon:
    """A mechanism of which only its pure epsilon is known, for example PrivUnit.

    Args:
        epsilon: the bound of its loss, >= 0.
        relation: under which that bound was proved. `"replace_one"`, for every pair
            of inputs with the empty one among them, holds for zero-out as well; one
            proved under `"zero_out"` counts twice under `"replace_one"`.
    """

    epsilon: float
    relation: str = "replace_one"

    def __post_init__(self) -> None:
        check.non_negative(epsilon=self.epsilon)
        check.one_of(RELATIONS, relation=self.relation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skellam:
    """A sum of integers with Skellam noise in every coordinate.

    Agarwal, Kairouz, Liu 2021, arXiv:2110.04995. Only Renyi bounds are known for
    vectors, so that epsilon comes from them.

    Args:
        l1_sensitivity: how far one client moves the sum in L1, under zero-out.
        l2_sensitivity: the same in L2.
        variance: of the noise in each coordinate, added up over all who add noise.
    """

    l1_sensitivity: float
    l2_sensitivity: float
    variance: float

    def __post_init__(self) -> None:
        check.non_negative(l1_sensitivity=self.l1_sensitivity)
        check.non_negative(l2_sensitivity=self.l2_sensitivity)
        check.non_negative(variance=self.variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedGroup:
    """Several clients of one truncated Poisson cohort; made by `group_epsilon`.

    Whoever knows the other clients' draws knows whether the cohort can overflow. If
    it cannot, the members join independently. If it can, nothing is released about
    them unless at least one was drawn, and then the sum moves by at most `size`:
    three cases with public probabilities, which are averaged (joint convexity).
    """

    event: Any
    size: int

    def cases(self) -> tuple[float, float]:
        """Returns P(the cohort can overflow), and P(at least one member is drawn)."""
        from scipy import stats

        rate, others = self.event.sampling_probability, self.event.dataset_size
        room = self.event.truncated_batch_size - self.size
        full = float(stats.binom.sf(room, max(0, others - self.size), rate))
        return (full if room >= 0 else 1.0), -math.expm1(
            self.size * math.log1p(-rate)
        ) if rate < 1 else 1.0
