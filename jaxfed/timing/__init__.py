"""Virtual time: how long rounds take on clients of different speed.

A fleet says how fast clients are, a server how it waits for them; from both follows,
without any training, who reports when. `jaxfed.simulate_in_time` trains along it.
"""

from jaxfed.timing._buffered import Buffered as Buffered
from jaxfed.timing._fleet import Fleet as Fleet
from jaxfed.timing._fleet import FleetClients as FleetClients
from jaxfed.timing._release import Release as Release
from jaxfed.timing._release import Server as Server
from jaxfed.timing._synchronous import Synchronous as Synchronous
from jaxfed.timing._target import seconds_to as seconds_to
