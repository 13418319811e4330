"""Federated algorithms, one file each, paper first."""

from jaxfed.algorithms._evaluation import evaluation as evaluation
from jaxfed.algorithms._evaluation import measures as measures
from jaxfed.algorithms._fedavg import fedavg as fedavg
