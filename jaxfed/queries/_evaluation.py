"""Private federated evaluation: how well a model does, at a stated cost a look.

A client's vector is its count beside the sums of its examples' metrics, centred
between public bounds and clipped jointly; noisy sums are divided by the noisy count.
Metrics reported beside a private model without noise are outside its guarantee.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed.clients import _measure
from jaxfed.clients._measure import MetricFunction
from jaxfed.data import FederatedData
from jaxfed.evaluation import Evaluation
from jaxfed.evaluation._predictors import Predictor
from jaxfed.ledger import Ledger
from jaxfed.privacy import Central
from jaxfed.queries import _columns
from jaxfed.queries._answer import Answer, cost_of
from jaxfed.queries._means import ratios, standard_error
from jaxfed.queries._paid import Paid, Source, begun, source_of
from jaxfed.queries._release import (
    WEIGHTINGS,
    Clients,
    check_query,
    check_sums,
    digest_of,
)
from jaxfed.typing import Params

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PrivateEvaluation(Evaluation):
    """An evaluation that spends one event of `privacy` a look.

    The same parameters again get the same answer, which costs nothing. Beyond the
    planned number of looks it refuses.
    """

    privacy: Central
    looks: int
    """How many releases are planned and accounted for."""
    answers: list[Answer]
    """What this object released, in order; the costs of all of it are one event each.
    Looks that a process before this one took are in the ledger alone."""
    ledger: Ledger | None = None
    """What pays for the looks; None in a simulation."""

    def validate(self, *, rounds: int, ledger: Ledger | None = None) -> None:
        """Checks that enough looks are planned, and that the run's ledger pays.

        Raises:
            ValueError: they are not, or another one or none pays.
        """
        if ledger is None and self.ledger is not None:
            raise ValueError(
                "evaluate must not be paid by a ledger in a simulation, got one that "
                f"{self.ledger.path.name!r} pays: it would release what it finds in "
                "models that nothing protects; pass queries.evaluation(..., key="
                "jaxfed.keys.simulated(seed)), or run jaxfed.train."
            )
        wanted = math.ceil(rounds / self.every)
        if wanted > self.looks:
            raise ValueError(
                f"looks must be >= the {wanted} that {rounds} rounds take with every="
                f"{self.every}, got {self.looks}; plan more, or look less often."
            )
        if ledger is not None and self.ledger is not ledger:
            payer = "a key" if self.ledger is None else repr(self.ledger.path.name)
            raise ValueError(
                "evaluate must be paid by the run's own ledger, "
                f"{ledger.path.name!r}, got one that {payer} serves; pass one open "
                "Ledger to both: "
                "queries.evaluation(..., ledger=ledger)."
            )

    @property
    def event(self) -> "DpEvent":
        """What all planned looks cost, whether they are taken or not."""
        return self.privacy.event(rounds=self.looks)

    @property
    def epsilon(self) -> float | None:
        """What all planned looks cost together; None while no delta is named."""
        if self.privacy.delta is None:
            return None
        return self.privacy.epsilon(rounds=self.looks)

    def __repr__(self) -> str:
        return (
            f"PrivateEvaluation({len(self.answers)} of {self.looks} looks taken; "
            f"{cost_of(self.epsilon, self.privacy)} for all of them)"
        )


def evaluation(
    metric_fn: MetricFunction,
    data: FederatedData,
    *,
    bounds: Mapping[str, tuple[float, float]],
    privacy: Central,
    looks: int,
    key: jax.Array | None = None,
    ledger: Ledger | None = None,
    every: int = 1,
    weighting: str = "examples",
) -> PrivateEvaluation:
    """Returns a private evaluation, to be passed as `evaluate`.

    With a ledger it may be passed to `train`, with a key to `simulate`.

    Args:
        metric_fn: `(params, rows) -> {name: one value per row}`. It is called row by
            row, each as a batch of one, as losses are: no row can change what is
            measured of another. A client with NaN or infinity in any counts as absent.
        data: the clients to evaluate on; as many as the sampler counts.
        bounds: `{name: (lowest, highest)}` for each metric, by definition; values
            outside are clipped.
        privacy: `privacy.central` with `clipping.Fixed`, its norm in examples.
        looks: how many releases are planned: `ceil(rounds / every)` in a simulation.
        key: the root key, for a simulation. An evaluation of other metrics under the
            same names needs another, lest it look at the same cohorts.
        ledger: what pays for the looks and makes their noise; instead of `key`. All
            looks are planned now.
        every: evaluate after every so many rounds, and after the last.
        weighting: `"examples"`, or `"clients"` to let each client count alike.
    """
    check_query(data, privacy)
    check.function("write (params, rows) -> {name: values}", metric_fn=metric_fn)
    check.one_of(WEIGHTINGS, weighting=weighting)
    check.positive_integer("plan how often to look", looks=looks)
    if privacy.sampling.participation(looks).max_participations < looks:
        raise ValueError(
            f"sampling must draw every look's cohort anew, got {privacy.sampling!r}, "
            "whose clients take turns; use sampling.Poisson or sampling.Full."
        )
    limits = _checked_bounds(bounds)
    check_sums(1 + len(limits), looks, data, privacy)
    name = f"evaluation of {', '.join(limits)}"
    source = source_of(key, ledger, name=name, looks=looks)
    kind = repr(("evaluation", limits, weighting))
    if isinstance(source, Paid):
        begun(source, kind, data, privacy)  # before anything is released
    predict = Predictor(_stacked(metric_fn, tuple(limits)), dict(data.arrays))
    known: dict[bytes, dict[str, float]] = {}
    answers: list[Answer] = []

    def compute(params: Params) -> dict[str, float]:
        digest = digest_of(params)
        if digest not in known:
            if len(answers) == looks:
                raise RuntimeError(
                    f"this evaluation was planned for {looks} looks and all are spent; "
                    "plan more with looks=..., or evaluate less often with every=..."
                )
            asked, own = repr(("evaluation", limits, weighting, digest.hex())), source
            if isinstance(source, Paid):  # one mechanism for all looks
                program = predict.program_of(params)
                about = source.ledger.tag(digest + program)
                asked, own = kind, source._replace(about=about)
            answers.append(
                _released(predict(params), limits, data, privacy, weighting, asked, own)
            )
            known[digest] = {n: float(v) for n, v in answers[-1].value.items()}
        return dict(known[digest])

    return PrivateEvaluation(
        compute=compute,
        every=every,
        ledger=ledger,
        privacy=privacy,
        looks=looks,
        answers=answers,
    )


def _released(
    values: np.ndarray,
    limits: dict[str, tuple[float, float]],
    data: FederatedData,
    privacy: Central,
    weighting: str,
    question: str,
    source: Source,
) -> Answer:
    low, high = zip(*limits.values(), strict=True)
    array = _columns.Array(values, None, (len(limits),))
    column = _columns.Bounded(array, *_columns.bounds(low, high, array.shape))

    def sums(clients: Clients) -> np.ndarray:
        return clients.sums(column.units(clients), weighting)

    found = ratios(
        sums, len(limits), data, privacy, weighting, question=question, source=source
    )
    errors = column.half * standard_error(found)
    return Answer(
        query=f"evaluation over {weighting}",
        value=dict(zip(limits, column.from_units(found.value), strict=True)),
        standard_error=dict(zip(limits, errors, strict=True)),
        privacy=privacy,
        private=isinstance(source, Paid),
    )


def _stacked(metric_fn: MetricFunction, names: tuple[str, ...]) -> Callable[..., Any]:
    """Returns `(params, rows) -> (num_rows, metrics)` float32, checked when traced."""

    def one(params: Params, row: dict[str, jax.Array]) -> jax.Array:
        return _measure.of_row(metric_fn, params, row, names)

    return jax.vmap(one, in_axes=(None, 0))


def _checked_bounds(given: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    remedy = 'pass for example {"accuracy": (0, 1)}'
    check.instance(Mapping, remedy, bounds=given)
    if not given:
        raise ValueError(f"bounds must name at least one metric, got none; {remedy}.")
    for name, pair in given.items():
        if np.shape(pair) != (2,):
            raise ValueError(
                f"bounds of {name!r} must be (lowest, highest), got {pair!r}; {remedy}."
            )
        _columns.bounds(pair[0], pair[1], ())
    return {name: (float(low), float(high)) for name, (low, high) in given.items()}
