"""Federated data: the container, embedded sets, partitions, skew, synthetic sets."""

from jaxfed.data._federated_data import FederatedData as FederatedData
