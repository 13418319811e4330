"""Engines: whatever runs a `FederatedAlgorithm` over `FederatedData`."""

from jaxfed.engine._history import History as History
from jaxfed.engine._history import RoundRecord as RoundRecord
from jaxfed.engine._simulate import simulate as simulate
