"""jaxfed: differentially private federated learning in JAX.

The names below are loaded when they are first used, so that `import jaxfed` costs
little more than `import jax`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxfed import accounting as accounting
    from jaxfed import algorithms as algorithms
    from jaxfed import attacks as attacks
    from jaxfed import clients as clients
    from jaxfed import clipping as clipping
    from jaxfed import compression as compression
    from jaxfed import data as data
    from jaxfed import deploy as deploy
    from jaxfed import engine as engine
    from jaxfed import evaluation as evaluation
    from jaxfed import keys as keys
    from jaxfed import ledger as ledger
    from jaxfed import metrics as metrics
    from jaxfed import models as models
    from jaxfed import noise as noise
    from jaxfed import parts as parts
    from jaxfed import privacy as privacy
    from jaxfed import queries as queries
    from jaxfed import robust as robust
    from jaxfed import sampling as sampling
    from jaxfed import timing as timing
    from jaxfed import tree as tree
    from jaxfed import typing as typing
    from jaxfed._cite import cite as cite
    from jaxfed.engine import Checkpoint as Checkpoint
    from jaxfed.engine import History as History
    from jaxfed.engine import Strategy as Strategy
    from jaxfed.engine import Sweep as Sweep
    from jaxfed.engine import simulate as simulate
    from jaxfed.engine import simulate_in_time as simulate_in_time
    from jaxfed.engine import sweep as sweep
    from jaxfed.engine import train as train
    from jaxfed.engine import use_cores as use_cores
    from jaxfed.ledger import Ledger as Ledger

_SUBMODULES = (
    "accounting",
    "algorithms",
    "attacks",
    "clients",
    "clipping",
    "compression",
    "data",
    "deploy",
    "engine",
    "evaluation",
    "keys",
    "ledger",
    "metrics",
    "models",
    "noise",
    "parts",
    "privacy",
    "queries",
    "robust",
    "sampling",
    "timing",
    "tree",
    "typing",
)
_FROM = {
    "Checkpoint": "engine",
    "History": "engine",
    "Ledger": "ledger",
    "Strategy": "engine",
    "Sweep": "engine",
    "cite": "_cite",
    "simulate": "engine",
    "simulate_in_time": "engine",
    "sweep": "engine",
    "train": "engine",
    "use_cores": "engine",
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"jaxfed.{name}")
    if name in _FROM:
        value = getattr(importlib.import_module(f"jaxfed.{_FROM[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'jaxfed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_SUBMODULES, *_FROM, "__version__"])
