"""Evaluations of a model, over all examples at once or client by client.

What they return is exact, and so private when it is computed on clients' data: in a
simulation it is there to be looked at, a release must not carry it.
"""

from jaxfed.evaluation._evaluation import RELEASED as RELEASED
from jaxfed.evaluation._evaluation import Evaluation as Evaluation
from jaxfed.evaluation._evaluation import PersonalEvaluation as PersonalEvaluation
from jaxfed.evaluation._evaluation import PublicEvaluation as PublicEvaluation
from jaxfed.evaluation._measures import central as central
from jaxfed.evaluation._measures import federated as federated
from jaxfed.evaluation._measures import per_client as per_client
from jaxfed.evaluation._measures import personal as personal
from jaxfed.evaluation._measures import public as public
from jaxfed.evaluation._predictors import Predict as Predict
