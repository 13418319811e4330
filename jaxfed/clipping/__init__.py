"""Clipping: bounding what one client can contribute."""

from jaxfed.clipping._fixed import Clipped as Clipped
from jaxfed.clipping._fixed import Fixed as Fixed
