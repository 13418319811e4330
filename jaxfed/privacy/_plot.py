"""Pictures of a privacy budget."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfed import _check as check

if TYPE_CHECKING:
    from jaxfed.privacy._base import Privacy

_FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)


def tradeoff(
    privacy: "Privacy", *, rounds: int | None = None, delta: float | None = None
) -> Any:
    """Draws epsilon over rounds for the object's noise and multiples of it."""
    pyplot = check.optional_module(
        "matplotlib.pyplot", extra="plot", purpose="privacy.plot_tradeoff()"
    )
    noise: Any = getattr(privacy, "noise", None)
    if not getattr(noise, "multiplier", 0):
        raise ValueError(
            f"there is no trade-off to draw: {type(privacy).__name__} adds no noise "
            "with a multiplier; use privacy.central(...) with a positive one."
        )
    rounds = rounds or getattr(privacy, "rounds", None)
    delta = delta or privacy.delta
    if rounds is None or delta is None:
        raise ValueError(
            f"rounds and delta must be known, got {rounds} and {delta}; call "
            "privacy.plot_tradeoff(rounds=100, delta=1e-5), or calibrate first."
        )
    figure, axes = pyplot.subplots(layout="constrained")
    for factor in _FACTORS:
        most = getattr(noise, "MOST_MULTIPLIER", math.inf)
        multiplier = min(noise.multiplier * factor, most)
        changed = dataclasses.replace(noise, multiplier=multiplier)
        varied: Any = dataclasses.replace(privacy, noise=changed, delta=delta)
        axes.plot(
            np.arange(1, rounds + 1),
            varied.epsilon_curve(rounds),
            label=f"multiplier {multiplier:.3g}",
            linewidth=2.5 if factor == 1.0 else 1.0,
        )
    axes.set(xlabel="rounds", ylabel=f"epsilon at delta {delta:g}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
