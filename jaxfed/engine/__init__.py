"""Engines: whatever runs a `FederatedAlgorithm` over `FederatedData`."""

from jaxfed.engine._checkpoint import Checkpoint as Checkpoint
from jaxfed.engine._choice import choose_strategy as choose_strategy
from jaxfed.engine._devices import use_cores as use_cores
from jaxfed.engine._history import History as History
from jaxfed.engine._history import LedgerFacts as LedgerFacts
from jaxfed.engine._history import RoundRecord as RoundRecord
from jaxfed.engine._simulate import simulate as simulate
from jaxfed.engine._strategy import Strategy as Strategy
from jaxfed.engine._sweep import sweep as sweep
from jaxfed.engine._sweep_table import Setting as Setting
from jaxfed.engine._sweep_table import Sweep as Sweep
from jaxfed.engine._train import train as train
from jaxfed.engine._virtual_time import simulate_in_time as simulate_in_time
