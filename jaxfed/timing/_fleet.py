"""A fleet: how fast clients are, when they are there, and how often they fail.

Speeds are log-normal over clients, as measured over phones (Lai et al. 2022, FedScale,
arXiv:2105.11367, section 3); a client is there in a window of each period.
"""

import dataclasses

import numpy as np

from jaxfed import _check as check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """What the clients of a simulation in virtual time are like.

    Args:
        seconds_per_step: the median client's, of one local step, > 0.
        speed_spread: the standard deviation of its logarithm over clients; 0, all are
            alike; at 1, one client in six is 2.7 times slower than the median or more.
        seconds_of_exchange: the median client's, to fetch a model and send an update.
        exchange_spread: the same of its logarithm.
        dropout: how likely a client that was asked never reports, in [0, 1).
        available: the share of each period in which a client is there, in (0, 1]. One
            that leaves before it has reported never does.
        period: in seconds.
    """

    seconds_per_step: float = 1.0
    speed_spread: float = 0.0
    seconds_of_exchange: float = 0.0
    exchange_spread: float = 0.0
    dropout: float = 0.0
    available: float = 1.0
    period: float = 86_400.0

    def __post_init__(self) -> None:
        check.positive(seconds_per_step=self.seconds_per_step)
        check.positive(period=self.period)
        for name in ("speed_spread", "seconds_of_exchange", "exchange_spread"):
            check.non_negative(**{name: getattr(self, name)})
        check.probability(
            "it is the share of a period in which a client is there",
            available=self.available,
        )
        if check.non_negative(dropout=self.dropout) >= 1:
            raise ValueError(
                f"dropout must be < 1, got {self.dropout}; somebody has to report."
            )

    def drawn(self, num_clients: int, seed: int) -> "FleetClients":
        """Returns the clients of one simulation.

        Args:
            num_clients: how many there are.
            seed: the simulation's, an integer, 0 <= seed < 2**64.
        """
        draw = np.random.default_rng([_OF_FLEETS, seed])
        spreads = draw.normal(size=(2, num_clients))
        return FleetClients(
            self,
            self.seconds_per_step * np.exp(self.speed_spread * spreads[0]),
            self.seconds_of_exchange * np.exp(self.exchange_spread * spreads[1]),
            draw.random(num_clients) * self.period,
        )


_ROUNDING = 1e-9  # of a period
_OF_FLEETS = 0xF1EE7  # tells these draws from any others of the same seed


@dataclasses.dataclass(frozen=True)
class FleetClients:
    """Clients with speeds and windows of their own; every array (num_clients,)."""

    fleet: Fleet
    step_seconds: np.ndarray
    exchange_seconds: np.ndarray
    window_start: np.ndarray
    """In [0, period): when a client's window opens."""

    def are_available(self, time: float) -> np.ndarray:
        """Returns who is there, (num_clients,) bool."""
        return self._stay(time) > 0

    def seconds(self, clients: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Returns how long these clients take for so many steps, exchange included."""
        return self.exchange_seconds[clients] + steps * self.step_seconds[clients]

    def stay(self, clients: np.ndarray, time: float) -> np.ndarray:
        """Returns for how many seconds from `time` these clients are there; 0, not."""
        return self._stay(time)[clients]

    def next_time(self, time: float) -> float:
        """Returns when the next window opens after `time`."""
        return time + float(np.min(self.fleet.period - self._into(time)))

    def check_windows(self, steps: np.ndarray) -> None:
        """Refuses windows in which nobody can do so many steps.

        Raises:
            ValueError: they are too short.
        """
        shortest = float(self.seconds(np.arange(len(steps)), steps).min())
        window = self.fleet.available * self.fleet.period
        if self.fleet.available < 1 and shortest > window:
            raise ValueError(
                f"available * period must be >= the {shortest:.4g} seconds that the "
                f"fastest client takes, got {window:.4g}; nobody would ever report."
            )

    def _stay(self, time: float) -> np.ndarray:
        if self.fleet.available == 1:
            return np.full(len(self.window_start), np.inf)
        left = self.fleet.available * self.fleet.period - self._into(time)
        # a window that has but rounding left has closed
        return np.where(left > _ROUNDING * self.fleet.period, left, 0.0)

    def _into(self, time: float) -> np.ndarray:
        """Returns how long ago each client's window opened."""
        into = np.mod(time - self.window_start, self.fleet.period)
        # a window that opens now opens now, whatever the last bits say
        return np.where(into > (1 - _ROUNDING) * self.fleet.period, 0.0, into)
