"""Private statistics of federated data, in the same budget as training.

Every query releases one noisy sum of jointly clipped client vectors through a
`privacy.central` object, and costs one round of it; `composed_epsilon` adds queries
and training up. The unit is the client, with all of its examples; the clip norm counts
examples.

A query is released with `ledger=`, which pays for it first and makes its noise, or
computed with `key=`, in a simulation. The same question again has the same answer, and
costs nothing more. One key serves all queries of one data set: the question, the
mechanism and the exact sum enter what is drawn from it; new data needs a new key, and
is paid anew by a ledger. What only a simulation may see is in
`jaxfed.evaluation` and `FederatedData.statistics`; this module has what may leave.
"""

from jaxfed.queries._answer import Answer as Answer
from jaxfed.queries._answer import composed_epsilon as composed_epsilon
from jaxfed.queries._evaluation import PrivateEvaluation as PrivateEvaluation
from jaxfed.queries._evaluation import evaluation as evaluation
from jaxfed.queries._histograms import histogram as histogram
from jaxfed.queries._means import Moments as Moments
from jaxfed.queries._means import mean as mean
from jaxfed.queries._means import moments as moments
from jaxfed.queries._quantiles import quantile as quantile
from jaxfed.queries._scaling import Scaling as Scaling
from jaxfed.queries._scaling import scaling as scaling
