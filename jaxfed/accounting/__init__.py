"""Accounting on the host: epsilon from events, and noise from epsilon.

These functions serve `jaxfed.privacy`, whose objects derive every event from the
sampler, clip and noise that run. Claims are made there; nothing here is one.
"""

from jaxfed.accounting._calibration import calibrate_multiplier as calibrate_multiplier
from jaxfed.accounting._calibration import calibrate_rate as calibrate_rate
from jaxfed.accounting._calibration import calibrate_rounds as calibrate_rounds
from jaxfed.accounting._epsilon import AccountingError as AccountingError
from jaxfed.accounting._epsilon import Derivation as Derivation
from jaxfed.accounting._epsilon import derive as derive
from jaxfed.accounting._epsilon import epsilon as epsilon
from jaxfed.accounting._epsilon import epsilon_curve as epsilon_curve
from jaxfed.accounting._filter import BudgetExhausted as BudgetExhausted
from jaxfed.accounting._filter import RenyiFilter as RenyiFilter
from jaxfed.accounting._filter import best_order as best_order
from jaxfed.accounting._groups import group_epsilon as group_epsilon
from jaxfed.accounting._odometer import Odometer as Odometer
from jaxfed.accounting._own_events import PureEpsilon as PureEpsilon
from jaxfed.accounting._own_events import Skellam as Skellam
from jaxfed.accounting._pure import calibrate_pure as calibrate_pure
from jaxfed.accounting._pure import pure_epsilon as pure_epsilon
from jaxfed.accounting._pure import pure_epsilon_curve as pure_epsilon_curve
from jaxfed.accounting._rdp import ORDERS as ORDERS
from jaxfed.accounting._rdp import rdp as rdp
