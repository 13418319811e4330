"""The Laplace mechanism's noise, in integers.

Dwork, McSherry, Nissim and Smith 2006, "Calibrating noise to sensitivity in private
data analysis"; the discrete law is Ghosh, Roughgarden and Sundararajan 2009,
arXiv:0811.2841 (the two-sided geometric mechanism).
"""

import dataclasses

from jaxfed import _check as check
from jaxfed._config import Configuration


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laplace(Configuration):
    """Discrete Laplace noise whose scale is `multiplier` times the L1 clip norm.

    With reports clipped to L1 norm C, a client can move its report by 2 C, so that
    one report is (2 / multiplier, 0)-differentially private. The noise is drawn by
    `privacy.local`, on the client.

    Args:
        multiplier: unitless, > 0; the noise's mean magnitude in clip norms.
    """

    multiplier: float

    def __post_init__(self) -> None:
        value = check.positive(
            "calibrate one with `privacy.calibrated(epsilon=..., ...)`",
            multiplier=self.multiplier,
        )
        object.__setattr__(self, "multiplier", value)
