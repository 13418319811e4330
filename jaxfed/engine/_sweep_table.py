"""The result of a sweep: a table of settings, with spreads over seeds, and the best."""

import csv
import html
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfed.privacy import Privacy
from jaxfed.typing import PrivateReport

_MOST_ROWS = 20  # that are printed
_LESS_IS_BETTER = frozenset(
    [
        "brier",
        "error",
        "failed",
        "gap",
        "logloss",
        "loss",
        "mae",
        "mse",
        "nll",
        "perplexity",
        "rmse",
    ]
)
_MORE_IS_BETTER = frozenset(
    ["acc", "accuracy", "auc", "auprc", "auroc", "f1", "precision", "r2", "recall"]
)


class Setting(NamedTuple):
    """One setting, and how a number came out over the seeds."""

    values: dict[str, float]
    """What was set."""
    mean: float
    spread: float
    """The standard deviation over seeds; NaN for a single one."""
    worst: float
    """Of the seeds; NaN where it is not known whether more is better."""
    by_seed: np.ndarray
    """(seeds,); NaN for runs that failed."""
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
        failed: (settings, seeds) bool: runs in which all clients of a cohort failed, or
            the sum overflowed, where `simulate` would stop with an error. Their numbers
            are NaN from that round on, and at the end.
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
        self.failed = np.zeros((len(self.settings), len(seeds)), bool)
        self._evaluated: dict[str, _Curve] = {}
        self._local: dict[str, _Curve] = {}

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """Name -> (settings, seeds, rounds): local metrics, `num_failed`, evaluations.

        NaN in rounds without one. A local metric whose name an evaluation has too is
        `private.` and that name, as in the files of a `History`.
        """
        return {name: curve.values for name, curve in self._curves().items()}

    def table(
        self, name: str = "loss", *, largest: bool | None = None
    ) -> list[Setting]:
        """Returns how a number came out at the end of each setting's runs.

        Args:
            name: a local metric such as `loss`, or a name that `evaluate` returned; its
                value in the last round of a run that recorded it. Rounds without
                clients record no local metric.
            largest: as in `best`; decides which seed is the worst.

        Raises:
            ValueError: nothing has that name.
        """
        if name not in self.curves:
            known = ", ".join(sorted(self.curves)) or "none"
            raise ValueError(f"no run recorded {name!r}; known are {known}.")
        final, more = self._final(name), _wants_more(name, largest)
        rows = []
        for values, own, epsilon in zip(
            self.settings, final, self._epsilons, strict=True
        ):
            spread = float(np.std(own, ddof=1)) if len(own) > 1 else math.nan
            low = math.nan if more is None else float((np.min if more else np.max)(own))
            mean, is_supposed = float(np.mean(own)), self.hypothetical
            rows.append(Setting(values, mean, spread, low, own, epsilon, is_supposed))
        return rows

    def best(self, name: str = "loss", *, largest: bool | None = None) -> Setting:
        """Returns the setting with the best mean over seeds; NaN is never best.

        A setting with a seed whose run failed has no mean.

        Choosing it by looking at the data is not covered by its epsilon: choose on
        public or held-out data, or account for the choice.

        Args:
            name: as in `table`.
            largest: whether more is better. It may be left out if a word of the name
                tells: less is better with loss, logloss, error, gap, failed, mse, rmse,
                mae, nll, perplexity or brier in it, as in `accuracy_gap`; else more is
                with accuracy, acc, auc, auroc, auprc, precision, recall, f1 or r2.

        Raises:
            ValueError: nothing has that name, every setting came out as NaN, or
                `largest` is missing.
        """
        more = _wants_more(name, largest)
        rows = self.table(name, largest=largest)
        if more is None:
            raise ValueError(
                f"largest must be given for {name!r}, whose name does not tell whether "
                "more is better; pass largest=True or largest=False."
            )
        rows = [row for row in rows if math.isfinite(row.mean)]
        if not rows:
            raise ValueError(
                f"{name!r} must be finite for a setting to be best, got none: in each, "
                "a run failed, diverged or had no clients; try lower learning rates."
            )
        return max(rows, key=lambda row: row.mean if more else -row.mean)

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
        name = f"{'hypothetical_' if self.hypothetical else ''}epsilon"
        cells = [[*self.names, f"{shown} mean", "spread", "worst", name]]
        cells += [self._cells(row) for row in _ordered(self.table(shown), shown)]
        width = max(18, 2 + max(len(head) for head in cells[0]))
        for line in cells[: _MOST_ROWS + 1]:
            lines.append("  " + "".join(f"{cell:>{width}}" for cell in line))
        if count > _MOST_ROWS:
            lines.append(f"  ... and {count - _MOST_ROWS} more")
        if self.failed.any():
            lines.append(
                f"  {self.failed.sum()} of {self.failed.size} runs failed: all clients "
                "of a round, or their sum; their settings show nan"
            )
        lines.append(f"  {name} is of one run alone; it does not cover the choice")
        if self.hypothetical:
            lines.append("  HYPOTHETICAL: epsilon is of runs with a larger cohort")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _cells(self, row: Setting) -> list[str]:
        numbers = [f"{v:.4f}" for v in (row.mean, row.spread, row.worst)]
        epsilon = "-" if row.epsilon is None else f"{row.epsilon:.4g}"
        return [*(f"{row.values[n]:.4g}" for n in self.names), *numbers, epsilon]

    def _curves(self) -> dict[str, "_Curve"]:
        taken = self._evaluated
        local = {f"private.{n}" if n in taken else n: c for n, c in self._local.items()}
        return local | self._evaluated

    def _final(self, name: str) -> np.ndarray:
        """Returns (settings, seeds): each run's last record of a name, or NaN."""
        values, recorded = self._curves()[name]
        last = self.rounds - 1 - np.argmax(recorded[..., ::-1], axis=-1)
        final = np.take_along_axis(values, last[..., None], axis=-1)[..., 0]
        return np.where(self.failed | ~recorded.any(axis=-1), math.nan, final)

    def _record(
        self,
        seed: int,
        first: int,
        index: int,
        report: PrivateReport,
        is_finite: np.ndarray,
        found: list[dict[str, float]],
    ) -> None:
        """Keeps one round of a chunk of settings, beginning with number `first`.

        Args:
            seed: the number of the seed.
            first: the number of the first setting.
            index: the round, from 0.
            report: its fields but `num_clients` are (settings of the chunk,); settings
                past the last are padding.
            is_finite: (settings of the chunk,) bool: whether the mean update is.
            found: what was evaluated, for each setting of the chunk or empty.
        """
        place = slice(first, min(len(self.settings), first + len(is_finite)))
        few = place.stop - first
        failures = np.asarray(report.num_failed)[:few]
        all_failed = (report.num_clients > 0) & (failures == report.num_clients)
        self.failed[place, seed] |= all_failed | ~is_finite[:few]
        lost = self.failed[place, seed]

        def keep(curves: dict[str, _Curve], name: str, numbers: Any, here: Any) -> None:
            shape = (len(self.settings), len(self.seeds), self.rounds)
            nothing = _Curve(np.full(shape, math.nan), np.zeros(shape, bool))
            curve = curves.setdefault(name, nothing)
            curve.values[place, seed, index] = numbers
            curve.recorded[place, seed, index] = here

        keep(self._local, "num_failed", failures, True)
        succeeded = failures < report.num_clients
        for name, numbers in report.metrics.items():
            own = np.where(lost, math.nan, numbers[:few])
            keep(self._local, name, own, succeeded)
        for name in found[0] if found else ():
            own = np.array([one[name] for one in found[:few]])
            keep(self._evaluated, name, np.where(lost, math.nan, own), True)


class _Curve(NamedTuple):
    """One number of all runs; arrays (settings, seeds, rounds)."""

    values: np.ndarray
    recorded: np.ndarray
    """bool: whether there was anything to record."""


def _epsilon(mechanism: Privacy, rounds: int) -> float | None:
    if mechanism.delta is None:
        return None
    return mechanism.epsilon(rounds=rounds, delta=mechanism.delta)


def _ordered(rows: list[Setting], name: str) -> list[Setting]:
    """Returns the best first if the name tells which it is; NaN last."""
    more = _wants_more(name)
    sign = 0 if more is None else -1 if more else 1
    return sorted(rows, key=lambda r: (math.isnan(r.mean), sign * r.mean))


def _wants_more(name: str, largest: bool | None = None) -> bool | None:
    """Returns whether more is better; None if neither the caller nor the name tells."""
    if largest is not None:
        return largest
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if words & _LESS_IS_BETTER:
        return False
    return True if words & _MORE_IS_BETTER else None
