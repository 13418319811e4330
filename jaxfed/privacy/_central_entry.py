"""One name for central privacy, whatever the noise."""

from typing import Any

from jaxfed import _check as check
from jaxfed import clipping, noise
from jaxfed.noise import Correlated as _Correlated
from jaxfed.privacy._central import Central
from jaxfed.privacy._central_correlated import CentralCorrelated
from jaxfed.sampling import Sampler


def central(
    *,
    sampling: Sampler,
    clipping: clipping.Clipping,
    noise: "noise.Gaussian | noise.Skellam | noise.Correlated",
    delta: float | None = None,
    rounds: int | None = None,
) -> Central | CentralCorrelated:
    """Returns client-level privacy with a trusted server.

    Args:
        sampling: which clients take part in a round.
        clipping: how each update is bounded.
        noise: `noise.Gaussian` or `noise.Skellam` for independent noise (see
            `Central`), or `noise.BLT`, `noise.Banded`, `noise.Tree` for correlated
            noise (`CentralCorrelated`), the choice where no sampling can be relied on.
        delta: the delta at which epsilon is reported.
        rounds: the planned number of rounds; correlated noise needs it.
    """
    if isinstance(noise, _Correlated):
        planned = check.positive_integer(
            "correlated noise needs its horizon, so pass how many rounds you will run",
            rounds=rounds,
        )
        fixed: Any = clipping
        return CentralCorrelated(
            sampling=sampling, clipping=fixed, noise=noise, delta=delta, rounds=planned
        )
    return Central(
        sampling=sampling, clipping=clipping, noise=noise, delta=delta, rounds=rounds
    )
