"""Deployment: the same algorithm on real clients, who keep their data."""

from jaxfed.deploy import transports as transports
from jaxfed.deploy._coordinator import Coordinator as Coordinator
from jaxfed.deploy._desk import Desk as Desk
from jaxfed.deploy._desk import Ended as Ended
from jaxfed.deploy._desk import Stranger as Stranger
from jaxfed.deploy._export import export as export
from jaxfed.deploy._pace import Pace as Pace
from jaxfed.deploy._pace import RoundAbandoned as RoundAbandoned
from jaxfed.deploy._store import StoreError as StoreError
