"""Federated algorithms, one file each, paper first."""

from jaxfed.algorithms._fedavg import fedavg as fedavg
