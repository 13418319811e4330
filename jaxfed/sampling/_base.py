"""What every sampler is: a draw, an event, and a contract of participation."""

import abc
import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import keys
from jaxfed._config import Configuration
from jaxfed.typing import Participation

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_MAX_ROUNDS = 1 << 30  # the range of `keys.for_round`
_LEAST_CAP = 16  # a cohort of mean 1 exceeds it with probability 1e-15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(Configuration, abc.ABC):
    """A rule that draws cohorts from a public population of clients 0, 1, ..."""

    population: int

    @property
    @abc.abstractmethod
    def max_clients(self) -> int:
        """The largest cohort that can be drawn: the static size of a round."""

    @property
    @abc.abstractmethod
    def expected_clients(self) -> float:
        """The public constant by which a released sum is divided."""

    @property
    def relation(self) -> str:
        """The neighbouring relation under which `event` is valid.

        `"zero_out"`: one client's contribution is replaced by zero, the population is
        public. `"replace_one"`: it is replaced by any other client's.
        """
        return "zero_out"

    @abc.abstractmethod
    def draw(self, round_index: int, *, key: jax.Array) -> np.ndarray:
        """Draws the cohort of a round: client numbers, (count,) int64, ascending.

        The cohort is a function of the sampler, the key and the round alone, so that
        a run which resumes draws what it would have drawn.

        Args:
            round_index: 0, 1, ...
            key: the run's key for sampling, the same in every round.
        """

    @abc.abstractmethod
    def event(self, noise_multiplier: float) -> "DpEvent":
        """Returns the event of one round in which a client may take part.

        Valid under `relation`. With independent noise a run of `rounds` rounds is at
        most `participation(rounds).max_participations` such events: which rounds a
        client can enter is drawn without looking at any data, and in all others its
        data have no influence.

        Args:
            noise_multiplier: noise over the largest norm of one contribution,
                whatever the relation; replacing a contribution moves the sum by twice
                that, and the event says so.
        """

    @abc.abstractmethod
    def participation(self, rounds: int) -> Participation:
        """Returns how a client can take part in `rounds` rounds, at the worst.

        What every sequence of cohorts keeps, for every key: correlated noise is
        calibrated to it.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """Returns one clause for a privacy statement."""


def round_number(round_index: Any) -> int:
    """Checks the number of a round; returns an int."""
    is_integer = isinstance(round_index, numbers.Integral)
    if not is_integer or not 0 <= round_index < _MAX_ROUNDS:
        raise ValueError(
            f"round_index must be an integer in [0, 2**30), got {round_index!r}; "
            "rounds count from 0."
        )
    return int(round_index)


def part_key(key: jax.Array, epoch: int, part: int) -> jax.Array:
    """Returns the key of a part of a round or epoch, from the run's for sampling."""
    return _part_key(check.key(key=key), np.int32(epoch), np.int32(part))


def run_key(key: jax.Array) -> jax.Array:
    """Returns the key of what is drawn once for a whole run."""
    return _run_key(check.key(key=key))


def kept(draw: Callable[..., np.ndarray], key: jax.Array, *sizes: int) -> np.ndarray:
    """Returns `draw(key, *sizes)`, read-only; neighbouring rounds ask for the same."""
    data = np.asarray(jax.random.key_data(key))
    return _kept(draw, jax.random.key_impl(key), data.tobytes(), *sizes)


@functools.lru_cache(maxsize=4)
def _kept(
    draw: Callable[..., np.ndarray], kind: Any, data: bytes, *sizes: int
) -> np.ndarray:
    words = jnp.asarray(np.frombuffer(data, np.uint32))
    found = draw(jax.random.wrap_key_data(words, impl=kind), *sizes)
    found.setflags(write=False)
    return found


def shortened(cohort: np.ndarray, cap: int, *, key: jax.Array) -> np.ndarray:
    """Returns the cohort, or a uniformly random `cap` of it where it is larger."""
    if len(cohort) <= cap:
        return cohort
    return cohort[np.sort(keys.host_order(key, len(cohort))[:cap])]


@jax.jit
def _part_key(key: jax.Array, index: jax.Array, part: jax.Array) -> jax.Array:
    return keys.for_leaf(keys.for_round(key, index), part)


@jax.jit
def _run_key(key: jax.Array) -> jax.Array:
    return keys.for_leaf(key, 0)


def checked_cap(cap: int | None, *, mean: float, population: int, formula: str) -> int:
    """Returns the largest cohort: as given, or mean + 5 sqrt(mean), at least 16."""
    if cap is None:
        cap = max(_LEAST_CAP, math.ceil(mean + 5 * math.sqrt(mean)))
        cap = min(population, cap)
    cap = check.positive_integer(cap=cap)
    if cap < mean * (1 - 1e-12):
        raise ValueError(
            f"cap must be >= {formula} = {mean:g}, got {cap}; "
            "below the mean cohort the accounting loses most of the benefit of "
            "sampling: leave it out for mean + 5 sqrt(mean)."
        )
    if cap > population:
        raise ValueError(
            f"cap must be <= population = {population}, got {cap}; "
            "a cohort cannot hold more clients than exist."
        )
    return cap


def checked_size(size: int, *, population: int) -> int:
    """Returns the size of a cohort that the population can fill."""
    check.positive_integer("pass how many clients a round has", size=size)
    if size > population:
        raise ValueError(
            f"size must be <= population = {population}, got {size}; "
            "a cohort cannot hold more clients than exist."
        )
    return int(size)


def checked_population(population: int) -> int:
    """Returns the public number of clients."""
    check.positive_integer("pass data.num_clients", population=population)
    if population >= 1 << 32:
        raise ValueError(
            f"population must be < 2**32, got {population}; clients are drawn by "
            "32-bit numbers."
        )
    return int(population)


def every_round(rounds: int) -> Participation:
    """Returns the participation of samplers that may take a client at any time."""
    rounds = checked_rounds(rounds)
    return Participation(min_separation=1, max_participations=rounds)


def checked_rounds(rounds: int) -> int:
    """Returns the number of rounds of a run."""
    return check.positive_integer("pass how many rounds you will run", rounds=rounds)
