"""What a query returns, and what several cost together."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxfed import _check as check
from jaxfed import accounting
from jaxfed.privacy import Central, CentralCorrelated
from jaxfed.privacy._base import RUN_DISTANCE, checked_delta
from jaxfed.privacy._statement import up

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A value with noise that knows what it cost; public where `private` is True.

    Whatever is computed from it costs nothing more.
    """

    query: str
    """The question, for people."""
    value: Any
    """An array, or a named tuple or dict of arrays, as the query says."""
    standard_error: Any
    """Like `value`: of the noise alone, not of who was sampled."""
    privacy: Central
    """The mechanism that released it."""
    private: bool
    """Whether a ledger paid for it. If not, its noise can be computed again from its
    key: it is a simulation, and no release."""

    @property
    def event(self) -> "DpEvent":
        """What it cost: one round of `privacy`."""
        return self.privacy.event(rounds=1)

    @property
    def epsilon(self) -> float | None:
        """What it cost alone, at `privacy.delta`; None while no delta is named."""
        if self.privacy.delta is None:
            return None
        return self.privacy.epsilon(rounds=1)

    def __repr__(self) -> str:
        simulated = "" if self.private else ", simulated"
        return f"Answer({self.query}: {self.value}; {self.cost()}{simulated})"

    def cost(self) -> str:
        """Returns one clause that says what the answer cost."""
        return cost_of(self.epsilon, self.privacy)


def cost_of(epsilon: float | None, privacy: Central) -> str:
    """Returns what was spent, in words, with epsilon rounded up."""
    if epsilon is None:
        return "cost: one release, no delta named"
    return f"cost: epsilon {up(epsilon)} at delta {privacy.delta:g} for each client"


def composed_epsilon(spends: Sequence[Any], *, delta: float) -> float:
    """Returns an upper bound of epsilon for training and queries together.

    Args:
        spends: answers, scalings and evaluations of this module; privacy objects that
            were calibrated for the rounds they are used for, or `(privacy, rounds)`.
        delta: of all of it together, strictly between 0 and 1.

    Returns:
        Epsilon for each client, as if it took part in everything. Where two parts use
        different clients (training and test, say) it is an upper bound.

    Raises:
        TypeError: a part knows no cost.
        ValueError: a privacy object without its rounds, or delta is out of range.
    """
    check.open_probability("pass for example delta=1e-5", delta=delta)
    check.instance((list, tuple), "pass [privacy, answer]", spends=spends)
    if not spends:
        raise ValueError("spends must name at least one part, got none.")
    for spend in spends:
        privacy = spend[0] if isinstance(spend, tuple) else spend
        privacy = getattr(privacy, "privacy", privacy)
        if isinstance(privacy, Central | CentralCorrelated):
            checked_delta(delta, privacy.sampling.population)
    return accounting.epsilon(
        [_event_of(spend) for spend in spends],
        1,
        delta=delta,
        distance=len(spends) * RUN_DISTANCE,
    )


def _event_of(spend: Any) -> "DpEvent":
    if isinstance(getattr(type(spend), "event", None), property):
        return spend.event
    privacy, rounds = spend, None
    if isinstance(spend, tuple) and len(spend) == 2:
        privacy, rounds = spend
    if not isinstance(privacy, Central | CentralCorrelated):
        raise TypeError(
            "spends must hold answers, scalings, private evaluations or "
            f"privacy.central(...), got {type(spend).__name__}; other units of privacy "
            "do not add up, and training is written (privacy, rounds)."
        )
    if isinstance(privacy, Central) and privacy.sampling.relation != "zero_out":
        raise ValueError(
            f"spends must share the zero-out relation, got {privacy.sampling!r}, which "
            "is accounted under another; use sampling.Poisson or sampling.Full."
        )
    rounds = privacy.rounds if rounds is None else rounds
    remedy = "calibrate the privacy object for them, or pass (privacy, rounds)"
    return privacy.event(rounds=check.positive_integer(remedy, rounds=rounds))
