"""Which workers there are, in which environment, and what each leaves out."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framework:
    """One way to run a round."""

    name: str
    module: str
    environment: str | None = None
    """None for this interpreter."""
    arguments: tuple[str, ...] = ()
    does: str
    """What it does beside training; semantics differ, and are said."""
    fills_batches: bool = False
    """Whether each client's last batch is filled with further examples."""
    skips: dict[str, str] = dataclasses.field(default_factory=dict)
    """Workload -> why it is not run."""
    tolerance: float = 1e-4
    """Relative distance of its sum from the reference that is rounding.

    Where no rectifier is near zero it is 1e-6; one whose input rounds to the other side
    moves the sum of small-1000 by 6e-5.
    """


_FROM_PARAMS = 5e-4  # a mean update read off as a difference of parameters
# parameters are averaged, not updates, in 32 bits: an update is small beside them. One
# client of a thousand left out would show as 3e-2.
_MEAN_OF_PARAMS = 3e-3
_STOCK_SKIPS = dict.fromkeys(
    ("mlp-100", "small-1000", "small-10000", "logistic-1000"),
    "has no layer that a tuned one replaces",
)
_FEW = {"small-10000": "some minutes a round; small-1000 tells the same"}

FRAMEWORKS = {
    one.name: one
    for one in (
        Framework(
            name="ours",
            module="peers.ours_worker",
            does="clip, integer sum, discrete Gaussian noise, plan of the round",
            tolerance=1e-3,  # its sum is on a lattice
        ),
        Framework(
            name="ours-stock",
            module="peers.ours_worker",
            arguments=("--layers", "stock"),
            does="as ours, with the stock layers of flax",
            skips=_STOCK_SKIPS,
            tolerance=1e-3,
        ),
        Framework(
            name="fedjax",
            module="peers.fedjax_worker",
            environment="fedjax",
            does="weighted mean; no clip, no noise; fills last batches",
            fills_batches=True,
            skips={"lstm-10": "its own character model takes minutes to compile"},
            tolerance=_FROM_PARAMS,
        ),
        Framework(
            name="pfl",
            module="peers.pfl_worker",
            environment="pfl",
            does="clip, Gaussian noise; one process",
            tolerance=_FROM_PARAMS,
        ),
        Framework(
            name="pfl-2",
            module="peers.pfl_worker",
            environment="pfl",
            arguments=("--processes", "2"),
            does="clip, Gaussian noise; two processes, its own all-reduce",
            tolerance=_FROM_PARAMS,
        ),
        Framework(
            name="flower",
            module="peers.flower_worker",
            environment="flower",
            does="weighted mean; no clip, no noise; Ray, two actors",
            skips=_FEW,
            tolerance=_MEAN_OF_PARAMS,
        ),
        Framework(
            name="pytorch",
            module="peers.pytorch_worker",
            environment="pytorch",
            does="clip, sum; no noise; one process",
        ),
        Framework(
            name="pytorch-2",
            module="peers.pytorch_worker",
            environment="pytorch",
            arguments=("--processes", "2"),
            does="clip, sum; no noise; two processes",
        ),
        Framework(
            name="drjax",
            module="peers.drjax_worker",
            environment="drjax",
            does="clip, sum; no noise; all clients side by side, masked",
        ),
        Framework(
            name="blazefl",
            module="peers.blazefl_worker",
            environment="blazefl",
            does="weighted mean; no clip, no noise; two threads",
            tolerance=_MEAN_OF_PARAMS,
        ),
    )
}
