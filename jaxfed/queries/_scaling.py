"""Private feature scaling: zero mean and unit deviation, from one release.

Scaling by each client's or the pooled data's exact statistics publishes them with the
model; scaling by `moments` is post-processing of one query in the same budget.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed.data import FederatedData
from jaxfed.ledger import Ledger
from jaxfed.privacy import Central
from jaxfed.queries._answer import Answer
from jaxfed.queries._columns import Columns, array_of
from jaxfed.queries._means import moments

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """`(values - shift) / scale` of an array, fitted privately; public."""

    name: str
    columns: Columns
    shift: np.ndarray
    """Float64 of the shape of one example: noisy means."""
    scale: np.ndarray
    """Float64 > 0: noisy standard deviations, never below their noise."""
    answer: Answer
    """The moments it was fitted from."""

    @property
    def event(self) -> "DpEvent":
        """What it cost."""
        return self.answer.event

    @property
    def epsilon(self) -> float | None:
        """What it cost alone, at the mechanism's delta; None while none is named."""
        return self.answer.epsilon

    def apply(self, data: FederatedData) -> FederatedData:
        """Returns the data with the array scaled, in float32; other columns stay.

        Args:
            data: training, test or any other data with such an array.
        """
        check.instance(FederatedData, "pass the data to scale", data=data)
        array = array_of(data, self.name, self.columns)
        if array.shape != self.shift.shape:
            raise ValueError(
                f"array {self.name!r} must have examples of shape {self.shift.shape}, "
                f"got {array.shape}; apply the scaling to data like the fitted one."
            )
        values = np.asarray(array.values)
        if self.columns is None:
            scaled = ((values - self.shift) / self.scale).astype(np.float32)
        else:
            scaled = values.astype(np.float32)
            chosen = values[:, self.columns]
            scaled[:, self.columns] = (chosen - self.shift) / self.scale
        return dataclasses.replace(data, arrays={**data.arrays, self.name: scaled})

    def __repr__(self) -> str:
        return f"Scaling({self.name!r}; {self.answer.cost()})"


def scaling(
    data: FederatedData,
    name: str,
    *,
    lower: Any,
    upper: Any,
    privacy: Central,
    key: jax.Array | None = None,
    ledger: Ledger | None = None,
    columns: Columns = None,
    weighting: str = "clients",
) -> Scaling:
    """Fits a scaling of an array to about zero mean and unit deviation.

    Arguments as `mean`, except that clients count alike unless said otherwise, so
    that a clip norm of 1 clips nobody. A column whose deviation the noise hides is
    scaled by what the noise could hide, so that it is never blown up.

    >>> import jaxfed as jf
    >>> data = jf.data.rand_hie()
    >>> fitted = jf.queries.scaling(
    ...     data,
    ...     "x",
    ...     lower=-1.0,
    ...     upper=4.0,
    ...     privacy=jf.privacy.central(
    ...         sampling=jf.sampling.Full(population=data.num_clients),
    ...         clipping=jf.clipping.Fixed(norm=1.0),
    ...         noise=jf.noise.Gaussian(multiplier=10.0),
    ...     ),
    ...     key=jf.keys.simulated(0),
    ... )
    >>> fitted
    Scaling('x'; cost: one release, no delta named)
    >>> fitted.apply(data)
    FederatedData(5,912 clients, 20,190 examples, 1 to 5 a client; x: float32[24], ...)
    """
    answer = moments(
        data,
        name,
        lower=lower,
        upper=upper,
        privacy=privacy,
        key=key,
        ledger=ledger,
        columns=columns,
        weighting=weighting,
    )
    hidden = answer.standard_error.standard_deviation
    return Scaling(
        name=name,
        columns=columns,
        shift=answer.value.mean,
        scale=np.maximum(answer.value.standard_deviation, hidden),
        answer=answer,
    )
