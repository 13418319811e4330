"""Noise for the release of a clipped sum, or of one client's report."""

from jaxfed.noise._correlated import BLT as BLT
from jaxfed.noise._correlated import Banded as Banded
from jaxfed.noise._correlated import Correlated as Correlated
from jaxfed.noise._correlated import Tree as Tree
from jaxfed.noise._discrete import shared_over as shared_over
from jaxfed.noise._gaussian import Gaussian as Gaussian
from jaxfed.noise._laplace import Laplace as Laplace
from jaxfed.noise._privunit import PrivUnit as PrivUnit
from jaxfed.noise._skellam import Skellam as Skellam
from jaxfed.noise._strategies import BandedStrategy as BandedStrategy
from jaxfed.noise._strategies import BLTStrategy as BLTStrategy
from jaxfed.noise._strategies import Strategy as Strategy
from jaxfed.noise._strategies import TreeStrategy as TreeStrategy
from jaxfed.noise._stream import IntegerSampler as IntegerSampler
from jaxfed.noise._stream import Stream as Stream
from jaxfed.noise._streaming import streaming as streaming
