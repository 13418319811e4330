"""The result of a sweep: a table of settings, with spreads over seeds, and the best."""

import csv
import html
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfed.privacy import Privacy
from jaxfed.typing import PrivateReport

_MOST_ROWS = 20  # that are printed


class Setting(NamedTuple):
    """One setting, and how a number came out over the seeds."""

    values: dict[str, float]
    """What was set."""
    mean: float
    spread: float
    """The standard deviation over seeds; NaN for a single one."""
    worst: float
    by_seed: np.ndarray
    """(seeds,)."""
    epsilon: float | None
    """What a real run of this setting alone would spend; None without a delta."""
    hypothetical: bool = False
    """Whether epsilon is that of a run nobody made; see `privacy.hypothetical`."""


class Sweep:
    """Runs of all settings for all seeds; a simulation, in which nothing is private.

    Attributes:
        names: what was set.
        settings: a dict of values for each setting.
        seeds: of each run.
        rounds: how many each run had.
        curves: name -> (settings, seeds, rounds): losses, other local metrics,
            `num_failed`, and evaluations; NaN in rounds without one.
        strategy: how it was executed, and why so.
        hypothetical: whether every epsilon is that of a run nobody made.
    """

    def __init__(
        self,
        *,
        names: list[str],
        grid: list[list[float]],
        mechanisms: tuple[Privacy, ...],
        shows_noise: bool,
        seeds: list[int],
        rounds: int,
        strategy: str,
    ):
        self.seeds, self.rounds, self.strategy = seeds, rounds, strategy
        self.hypothetical = any(one.is_hypothetical for one in mechanisms)
        self.names = [*names, *(["noise_multiplier"] if shows_noise else [])]
        self.settings: list[dict[str, float]] = []
        self._epsilons: list[float | None] = []
        spent = [_epsilon(mechanism, rounds) for mechanism in mechanisms]
        for values in grid:
            for mechanism, epsilon in zip(mechanisms, spent, strict=True):
                noise: Any = [mechanism.noise.multiplier] if shows_noise else []  # ty: ignore
                row = dict(zip(self.names, [*values, *noise], strict=True))
                self.settings.append(row)
                self._epsilons.append(epsilon)
        self.curves: dict[str, np.ndarray] = {}
        self._recorded: dict[str, np.ndarray] = {}

    def table(self, name: str = "loss") -> list[Setting]:
        """Returns how a number came out at the end of each setting's runs.

        Args:
            name: a local metric such as `loss`, or a name that `evaluate` returned;
                its last value that is not NaN in the record of a run.

        Raises:
            ValueError: nothing has that name.
        """
        if name not in self.curves:
            known = ", ".join(sorted(self.curves)) or "none"
            raise ValueError(f"no run recorded {name!r}; known are {known}.")
        final = self._final(name)
        rows = []
        for values, own, epsilon in zip(
            self.settings, final, self._epsilons, strict=True
        ):
            spread = float(np.std(own, ddof=1)) if len(own) > 1 else math.nan
            low = float(np.max(own) if _is_loss(name) else np.min(own))
            mean, is_supposed = float(np.mean(own)), self.hypothetical
            rows.append(Setting(values, mean, spread, low, own, epsilon, is_supposed))
        return rows

    def best(self, name: str = "loss", *, largest: bool | None = None) -> Setting:
        """Returns the setting with the best mean over seeds; NaN is never best.

        Choosing it by looking at the data is not covered by its epsilon: choose on
        public or held-out data, or account for the choice.

        Args:
            name: as in `table`.
            largest: whether more is better; for names with `loss` or `gap` in them,
                less is, if not given.

        Raises:
            ValueError: every setting came out as NaN.
        """
        rows = [row for row in self.table(name) if math.isfinite(row.mean)]
        if not rows:
            raise ValueError(
                f"{name!r} is NaN for every setting: all runs failed; try lower "
                "learning rates."
            )
        wants_more = not _is_loss(name) if largest is None else largest
        return max(rows, key=lambda row: row.mean if wants_more else -row.mean)

    def to_csv(self, path: Any) -> None:
        """Writes one line per setting and seed, with the last value of every name."""
        finals = {name: self._final(name) for name in self.curves}
        epsilon = f"{'hypothetical_' if self.hypothetical else ''}epsilon_of_one_run"
        names = [*self.names, "seed", epsilon, *finals]
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            for i, values in enumerate(self.settings):
                for j, seed in enumerate(self.seeds):
                    last = [float(final[i, j]) for final in finals.values()]
                    head = [values[n] for n in self.names]
                    writer.writerow([*head, seed, self._epsilons[i], *last])

    def __repr__(self) -> str:
        count = len(self.settings)
        runs = f"{count} settings x {len(self.seeds)} seeds x {self.rounds} rounds"
        lines = [f"Sweep of {runs} (simulation: not private)"]
        if not self.curves:
            return lines[0]
        shown = list(self.curves)[-1]
        rows = self.table(shown)
        wants_more = not _is_loss(shown)
        order = sorted(
            range(count),
            key=lambda i: (
                math.isnan(rows[i].mean),
                -rows[i].mean if wants_more else rows[i].mean,
            ),
        )
        heads = [*self.names, f"{shown} mean", "spread", "worst", "epsilon"]
        lines.append("  " + "".join(f"{head:>18}" for head in heads))
        for i in order[:_MOST_ROWS]:
            row = rows[i]
            cells = [f"{row.values[n]:.4g}" for n in self.names]
            cells += [f"{v:.4f}" for v in (row.mean, row.spread, row.worst)]
            cells.append("-" if row.epsilon is None else f"{row.epsilon:.4g}")
            lines.append("  " + "".join(f"{cell:>18}" for cell in cells))
        if count > _MOST_ROWS:
            lines.append(f"  ... and {count - _MOST_ROWS} more")
        lines.append("  epsilon is of one run alone; it does not cover the choice")
        if self.hypothetical:
            lines.append("  HYPOTHETICAL: epsilon is of runs with a larger cohort")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _final(self, name: str) -> np.ndarray:
        """Returns (settings, seeds): each run's last record of a name."""
        values = self.curves[name]
        recorded = np.flatnonzero(self._recorded[name])
        return values[:, :, recorded[-1]]

    def _record(
        self,
        seed: int,
        first: int,
        index: int,
        report: PrivateReport,
        found: list[dict[str, float]],
    ) -> None:
        """Keeps one round of a chunk of settings, beginning with number `first`."""
        stop = min(len(self.settings), first + len(report.num_failed))
        rows: dict[str, Any] = {"num_failed": report.num_failed} | report.metrics
        for name in found[0] if found else ():
            rows[name] = np.array([one[name] for one in found])
        for name, values in rows.items():
            shape = (len(self.settings), len(self.seeds), self.rounds)
            curve = self.curves.setdefault(name, np.full(shape, math.nan))
            curve[first:stop, seed, index] = values[: stop - first]
            self._recorded.setdefault(name, np.zeros(self.rounds, bool))[index] = True


def _epsilon(mechanism: Privacy, rounds: int) -> float | None:
    if mechanism.delta is None:
        return None
    return mechanism.epsilon(rounds=rounds, delta=mechanism.delta)


def _is_loss(name: str) -> bool:
    return any(word in name for word in ("loss", "gap", "error", "failed"))
