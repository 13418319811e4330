"""What is called after rounds, and whether a run that releases may call it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.typing import LocalWork, Params, PyTree

RELEASED = (
    "pass evaluation.public(...) for examples that are public, or "
    "queries.evaluation(..., ledger=ledger) for clients'"
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A function of the parameters that is called every `every` rounds."""

    compute: Callable[[Params], dict[str, float]]
    every: int = 1

    def validate(self, *, rounds: int, ledger: Any = None) -> None:
        """Checks, before anything runs, that it may be called in such a run.

        Args:
            rounds: how many are planned.
            ledger: what pays for the run; None for a simulation.

        Raises:
            ValueError: it may not.
        """
        del rounds
        if ledger is not None:
            raise ValueError(
                f"evaluate must release public values alone, got {self!r}, which shows "
                f"exact ones; {RELEASED}."
            )

    def __post_init__(self) -> None:
        check.positive_integer(every=self.every)

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns named numbers."""
        return self.compute(params)


class PublicEvaluation(Evaluation):
    """An evaluation on examples that are public, as whoever made it says."""

    def validate(self, *, rounds: int, ledger: Any = None) -> None:
        """Accepts every run."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PersonalEvaluation(Evaluation):
    """An evaluation of every client's own model, in a simulation."""

    local: Any = None
    client_ids: Any = ()

    def check(self, local: LocalWork, client_ids: np.ndarray) -> None:
        """Checks, before anything runs, that it is of these clients.

        Raises:
            ValueError: it is of others.
        """
        if self.local != local:
            raise ValueError(
                f"evaluation.personal must get the local work of the run, {local!r}, "
                f"got {self.local!r}; pass the same object."
            )
        if len(self.client_ids) != len(client_ids):
            missing = sorted(set(client_ids.tolist()) - set(self.client_ids.tolist()))
            without = f"; without rows are {missing[:5]}" if missing else ""
            raise ValueError(
                "evaluation.personal must get data of the run's "
                f"{len(client_ids)} clients, got {len(self.client_ids)}; pass rows of "
                f"the same clients in the same order{without}."
            )
        if not np.array_equal(self.client_ids, client_ids):
            pairs = enumerate(zip(self.client_ids, client_ids, strict=True))
            place, (got, wanted) = next((i, p) for i, p in pairs if p[0] != p[1])
            raise ValueError(
                "evaluation.personal must get data of the run's clients in their "
                f"order, got {got!r} in place of {wanted!r} at {place}; pass rows of "
                "every client, in the order of the run's client_ids."
            )

    def of_clients(
        self, params: Params, states: Callable[[np.ndarray], PyTree]
    ) -> dict[str, float]:
        """Returns named numbers.

        Args:
            params: the server's.
            states: `(numbers) -> what these clients keep`.
        """
        compute: Any = self.compute
        return compute(params, states)

    def __call__(self, params: Params) -> dict[str, float]:
        """Refuses parameters alone.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "evaluation.personal needs what clients keep, got parameters alone; run "
            "it in jaxfed.simulate."
        )
