"""One name for central privacy, whatever the noise."""

from typing import Any

from jaxfed import _check as check
from jaxfed import clipping
from jaxfed import noise as noises
from jaxfed.noise import Correlated as _Correlated
from jaxfed.privacy._central import Central
from jaxfed.privacy._central_correlated import CentralCorrelated
from jaxfed.sampling import Sampler


def central(
    *,
    sampling: Sampler,
    clipping: clipping.Clipping,
    noise: noises.Gaussian | noises.Skellam | noises.Correlated | None = None,
    delta: float | None = None,
    rounds: int | None = None,
) -> Central | CentralCorrelated:
    """Returns client-level privacy with a trusted server.

    Args:
        sampling: which clients take part in a round.
        clipping: how each update is bounded.
        noise: `noise.Gaussian` or `noise.Skellam` for independent noise (see
            `Central`), or `noise.BLT`, `noise.Banded`, `noise.Tree` for correlated
            noise (`CentralCorrelated`). If not given, noise of multiplier 1, to be
            calibrated: `noise.BLT` with two buffers for samplers that promise no
            chance but a distance (`Cyclic`, `MinSeparation`, `BallsInBins`), and
            `noise.Gaussian` for the others.
        delta: the delta at which epsilon is reported.
        rounds: the planned number of rounds; correlated noise needs it.
    """
    check.instance(
        Sampler,
        "pass for example sampling.Poisson(population=..., rate=0.1)",
        sampling=sampling,
    )
    if noise is None:
        is_apart = sampling.participation(2).min_separation > 1
        noise = (noises.BLT if is_apart else noises.Gaussian)(multiplier=1.0)
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
