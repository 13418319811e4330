"""Pictures of a history."""

import math
from typing import TYPE_CHECKING, Any

from jaxfed import _check as check

if TYPE_CHECKING:
    from jaxfed.engine._history import History


def history(run: "History", names: tuple[str, ...]) -> Any:
    """Draws curves over rounds, with epsilon below where it is finite."""
    pyplot = check.optional_module(
        "matplotlib.pyplot", extra="plot", purpose="history.plot()"
    )
    names = names or tuple(run._names())
    curves = {name: run.curve(name) for name in names}  # refuses an unknown name
    epsilons = [r.epsilon for r in run.rounds if r.epsilon is not None]
    shows_epsilon = bool(epsilons) and all(math.isfinite(e) for e in epsilons)
    figure, axes = pyplot.subplots(
        1 + shows_epsilon, 1, sharex=True, squeeze=False, layout="constrained"
    )
    top = axes[0, 0]
    for name, (rounds, values) in curves.items():
        top.plot(rounds, values, label=name, marker="." if len(rounds) < 30 else None)
    title, epsilon = "Simulation: exact values, not private", "epsilon"
    if run.hypothetical:
        title += "\nHYPOTHETICAL: the noise and epsilon of a larger cohort"
        epsilon = "hypothetical epsilon"
    top.set_title(title, fontsize="medium")
    top.grid(alpha=0.3)
    top.legend()
    if shows_epsilon:
        below = axes[1, 0]
        below.plot([r.round for r in run.rounds], epsilons, color="tab:red")
        below.set_ylabel(f"{epsilon} at delta {run.delta:g}\n(as it would be)")
        below.set_ylim(bottom=0)
        below.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("round")
    return figure
