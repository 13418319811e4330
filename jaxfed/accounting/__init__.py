"""Accounting on the host: epsilon from events, and noise from epsilon.

These functions serve `jaxfed.privacy`, whose objects derive every event from the
sampler, clip and noise that run. Claims are made there; nothing here is one.
"""

from jaxfed.accounting._calibration import calibrate_multiplier as calibrate_multiplier
from jaxfed.accounting._pld import epsilon as epsilon
from jaxfed.accounting._pld import epsilon_curve as epsilon_curve
