"""Clipping: bounding what one client can contribute."""

from jaxfed.clipping._adaptive import Adaptive as Adaptive
from jaxfed.clipping._base import Clipping as Clipping
from jaxfed.clipping._fixed import Clipped as Clipped
from jaxfed.clipping._fixed import Fixed as Fixed
from jaxfed.clipping._fixed_l1 import FixedL1 as FixedL1
from jaxfed.clipping._per_layer import PerLayer as PerLayer
from jaxfed.clipping._scaled import Scaled as Scaled
