"""Sampling of cohorts: which clients take part in a round.

Each sampler is both the generator of cohorts and the only source of its part of the
privacy accounting, so that what is accounted is what was drawn.
"""

from jaxfed.sampling._attendance import Attendance as Attendance
from jaxfed.sampling._attendance import attend as attend
from jaxfed.sampling._attendance import no_attendance as no_attendance
from jaxfed.sampling._balls_in_bins import BallsInBins as BallsInBins
from jaxfed.sampling._base import Sampler as Sampler
from jaxfed.sampling._cyclic import Cyclic as Cyclic
from jaxfed.sampling._fixed_size import FixedSize as FixedSize
from jaxfed.sampling._full import Full as Full
from jaxfed.sampling._min_separation import MinSeparation as MinSeparation
from jaxfed.sampling._poisson import Poisson as Poisson
