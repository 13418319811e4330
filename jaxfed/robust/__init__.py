"""Robust aggregation: values that a minority of hostile clients cannot move far.

Rules over all reports of a round, read side by side. They are no sums: secure
aggregation cannot hide single reports from them, and none has a guarantee of
differential privacy. `NormBounded` alone is a sum.
"""

from jaxfed.robust._base import Rule as Rule
from jaxfed.robust._geometric_median import GeometricMedian as GeometricMedian
from jaxfed.robust._krum import Krum as Krum
from jaxfed.robust._median import Median as Median
from jaxfed.robust._norm_bounded import NormBounded as NormBounded
from jaxfed.robust._trimmed_mean import TrimmedMean as TrimmedMean
