"""Adaptive clipping: the norm follows a quantile of the clients' update norms.

Andrew, Thakkar, McMahan and Ramaswamy 2021, arXiv:1905.03871, algorithm 1: the norm
shrinks when more than the wanted share of clients fits under it, and grows when
fewer do.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxfed import _check as check
from jaxfed.clipping._base import Clipping, Group, checked_norm, whole
from jaxfed.typing import Params, PyTree

_LEAST, _MOST = 1e-9, 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptive(Clipping):
    """Clips to a norm that is moved, round by round, towards a quantile.

    Each client reports, beside its update, whether its norm was at most the current
    norm C. The noisy share b of those (clamped to [0, 1], which is post-processing)
    gives the next norm `C * exp(-learning_rate * (b - quantile))`, kept within
    [1e-9, 1e9]. Update and report are released together as one Gaussian of the
    privacy object's multiplier z: the share's noise takes `1 / (2 sigma_b)**2` of
    `1 / z**2` and the update the rest, so that adapting costs nothing in epsilon and a
    little in noise (theorem 1 of the paper).

    Args:
        quantile: which share of clients should stay unclipped, in (0, 1).
        initial: the norm of the first round, in the units of the parameters.
        learning_rate: how fast the norm moves; 0.2 moves it by at most 20 % a round.
        count_stddev: standard deviation of the noise on the number of unclipped
            clients, in clients; a twentieth of the expected cohort if not given, but
            at least the multiplier.
    """

    quantile: float
    initial: float
    learning_rate: float = 0.2
    count_stddev: float | None = None

    def __post_init__(self) -> None:
        check.open_probability("0.5 is the median", quantile=self.quantile)
        checked_norm("0.1 is a usual start", initial=self.initial)
        check.positive("0.2 is usual", learning_rate=self.learning_rate)
        if self.learning_rate > 2:
            raise ValueError(
                f"learning_rate must be <= 2, got {self.learning_rate}; a larger one "
                "overshoots: 0.2 is usual."
            )
        if self.count_stddev is not None:
            check.positive(
                "a twentieth of the cohort is usual", count_stddev=self.count_stddev
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                object.__setattr__(self, field.name, float(value))

    def groups(self, params: Params) -> tuple[Group, ...]:
        """Returns one group of all leaves."""
        return whole(params)

    def init(self, params: Params) -> PyTree:
        """Returns the norm of the first round, () float32."""
        del params
        return jnp.float32(self.initial)

    def norms_of(self, state: PyTree) -> tuple[jax.Array, ...]:
        """Returns the current norm."""
        return (state,)

    def adapt(self, state: PyTree, unclipped: jax.Array) -> PyTree:
        """Returns the next round's norm from the released share of unclipped clients.

        Args:
            state: the current norm.
            unclipped: () float32, already noised; clamped to [0, 1] here.
        """
        share = jnp.clip(unclipped, 0.0, 1.0)
        step = jnp.exp(-self.learning_rate * (share - self.quantile))
        return jnp.clip(state * step, _LEAST, _MOST)

    def noise_on_count(self, expected_clients: float, multiplier: float) -> float:
        """Returns the standard deviation of the noise on the count, in clients."""
        if self.count_stddev is not None:
            return self.count_stddev
        return max(expected_clients / 20, multiplier)

    def check_noise(self, expected_clients: float, multiplier: float) -> None:
        """Refuses a count so precise that it would spend the whole budget.

        Raises:
            ValueError: `count_stddev` is not above half the multiplier.
        """
        stddev = self.noise_on_count(expected_clients, multiplier)
        if multiplier > 0 and 1 - (multiplier / (2 * stddev)) ** 2 <= 0:
            raise ValueError(
                f"count_stddev must be > multiplier / 2 = {multiplier / 2:g}, got "
                f"{stddev:g}; the count alone would spend the budget."
            )

    @property
    def initial_norm(self) -> float:
        """`initial`."""
        return self.initial

    def describe(self) -> str:
        """Returns one clause for a privacy statement."""
        return (
            f"each update is clipped to an L2 norm that starts at {self.initial:g} and "
            f"follows, by noisy counts, the {self.quantile:g} quantile of the clients' "
            "norms"
        )
