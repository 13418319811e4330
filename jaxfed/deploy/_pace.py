"""How long a round waits, for how many, and when it is given up."""

import dataclasses

from jaxfed import _check as check
from jaxfed.deploy import _promise
from jaxfed.deploy._promise import Sums
from jaxfed.privacy._local import Local

_LONGEST = 10_000_000  # seconds; a task's deadline is checked against it too


class RoundAbandoned(RuntimeError):
    """Too few clients reported, again and again; nothing was released.

    Nor charged, but where vaults add the noise: such a round was, when it was opened.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """The pace of rounds.

    Whether a client answers in time is taken as public: it must not depend on its data.
    A goal asks for more than that, since a slow client then decides which other one
    still counts: with one, replacing a client's data can replace another one's report
    too, which is what the relation "replace_one" charges for.

    Args:
        deadline_seconds: after which a round closes, whoever is missing.
        least_cohort: reports without which nothing is released.
        goal: reports after which a round closes at once; the sampler's cohort over the
            goal is the over-selection. Without one, a round waits for its whole cohort
            until the deadline.
        most_attempts: how often a round is tried before the run stops.
    """

    deadline_seconds: float = 600.0
    least_cohort: int = 2
    goal: int | None = None
    most_attempts: int = 3

    def __post_init__(self) -> None:
        check.positive(deadline_seconds=self.deadline_seconds)
        if self.deadline_seconds > _LONGEST:
            raise ValueError(
                f"deadline_seconds must be <= {_LONGEST:,}, got "
                f"{self.deadline_seconds:g}; vaults refuse more, and a round that "
                "waits for months is best ended and begun again."
            )
        check.positive_integer(
            "release from two or more", least_cohort=self.least_cohort
        )
        check.positive_integer("try at least once", most_attempts=self.most_attempts)
        if self.goal is not None:
            check.positive_integer("pass a number of reports", goal=self.goal)
            if self.goal < self.least_cohort:
                raise ValueError(
                    f"goal must be >= least_cohort = {self.least_cohort}, got "
                    f"{self.goal}; a round that reaches its goal must be released."
                )

    def validate(self, privacy: Sums, *, relation: str) -> None:
        """Checks that the guarantee holds with this pace.

        Raises:
            ValueError: a goal would void it.
        """
        if self.goal is None:
            return
        if self.goal > privacy.sampling.max_clients:
            raise ValueError(
                f"goal must be <= the cohort's {privacy.sampling.max_clients} clients, "
                f"got {self.goal}; select more."
            )
        if isinstance(privacy, Local):
            return
        if _promise.amplifies(privacy):
            raise ValueError(
                f"goal must be None with {type(privacy.sampling).__name__}, whose "
                f"cohorts are drawn, got {self.goal}; who comes first is not drawn: "
                "use sampling.MinSeparation, Cyclic or Full."
            )
        if relation != "replace_one":
            raise ValueError(
                "goal needs a ledger with relation='replace_one', got "
                f"{relation!r}: how long one client takes decides whether another one "
                "still counts. Create the ledger so, or leave goal out."
            )
