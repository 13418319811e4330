"""Simulation in virtual time: who trains from which model follows from speeds.

Synchronous rounds and buffered asynchronous ones (FedBuff: Nguyen et al. 2022,
arXiv:2106.06639) on one clock, so that the time to an accuracy can be compared. When
clients report depends on nothing that is learned, so the schedule comes first and the
training follows it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import keys, tree
from jaxfed.data import FederatedData
from jaxfed.engine._choice import choose_strategy
from jaxfed.engine._chunk import Sums
from jaxfed.engine._history import History
from jaxfed.engine._rounds import Callback, Evaluate, Step, run_rounds, watch_of
from jaxfed.engine._run import Run, host_arrays
from jaxfed.engine._simulate import (
    check_evaluations,
    checked_call,
    checked_params,
    epsilon_of,
    private_facts,
    validate_run,
)
from jaxfed.engine._strategy import Strategy
from jaxfed.engine._traffic import Traffic, traffic_of
from jaxfed.privacy import Unprotected
from jaxfed.timing import Buffered, Fleet, Release, Server
from jaxfed.typing import (
    ClientResult,
    FederatedAlgorithm,
    Params,
    PyTree,
    Released,
    Shared,
)


def simulate_in_time(
    algorithm: FederatedAlgorithm,
    data: FederatedData,
    *,
    params: Params,
    rounds: int,
    seed: int,
    fleet: Fleet,
    server: Server,
    evaluate: Evaluate | Sequence[Evaluate] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    strategy: str | Strategy = "auto",
) -> History:
    """Runs an algorithm on simulated clients of different speed.

    As `simulate`, and every record has more private facts: `virtual_seconds` since the
    start, `num_lost` and `num_late` clients, and the mean `staleness` of the reports in
    versions. Bytes are those of all who were asked, and of all who sent something, if
    too late. With a fleet of no spread and `timing.Synchronous()` it is `simulate`,
    round by round.

    Args:
        algorithm: what to run.
        data: the clients; as many as the algorithm's sampler counts.
        params: the initial parameters, a pytree of floating-point arrays.
        rounds: how many updates of the server's model, >= 1.
        seed: an integer, 0 <= seed < 2**64.
        fleet: how fast clients are; draws depend on the seed.
        server: `timing.Synchronous(...)` or `timing.Buffered(...)`.
        evaluate: as in `simulate`.
        callbacks: as in `simulate`.
        progress: whether to show a progress bar.
        strategy: as in `simulate`.

    Returns:
        The history, whose `private` is False; see `timing.seconds_to`.

    Raises:
        ValueError: an argument is out of range; model, loss and data do not fit; or the
            server's way of waiting breaks what the algorithm or its privacy rests on.
        RuntimeError: every client of a cohort failed.
    """
    privacy = checked_call(algorithm, data, rounds)
    check.instance(Fleet, "pass timing.Fleet(...)", fleet=fleet)
    remedy = "pass timing.Synchronous(...) or timing.Buffered(...)"
    check.instance(Server, remedy, server=server)
    root, watch = keys.simulated(seed), watch_of(evaluate, callbacks, progress)
    params, arrays = checked_params(params), host_arrays(data)
    validate_run(algorithm, data, arrays, params, rounds)
    _check_server(algorithm, server, params)
    check_evaluations(watch, algorithm, data, rounds)
    weighted = _weighted(algorithm)
    chosen = choose_strategy(algorithm, data, params=params, strategy=strategy)
    run = Run(weighted, data, arrays, params, root, rounds, chosen)
    history = History(
        algorithm=repr(algorithm),
        privacy=privacy,
        params=params,
        rounds=rounds,
        strategy=chosen.explain(),
        client_states=run.client_states,
    )
    clients = fleet.drawn(data.num_clients, seed)
    releases = server.schedule(clients, run.steps(), run.cohort, seed=seed)
    timed = _TimedRun(run, server, releases, traffic_of(algorithm, params))
    step = Step(run=timed.one_round, epsilon=epsilon_of(privacy, rounds))
    run_rounds(step, weighted, run, history, watch, rounds=rounds, resumable=None)
    return history


class _TimedRun:
    """A run along a schedule; it keeps the models that clients are still at work on."""

    def __init__(
        self, run: Run, server: Server, releases: Iterator[Release], traffic: Traffic
    ):
        self._run, self._server, self._releases = run, server, releases
        self._traffic = traffic
        self._models = {0: run.state}
        self._groups = 0

    def one_round(self, index: int) -> dict[str, float]:
        """Trains those who report next, each from its own model, and updates."""
        release = next(self._releases)
        staleness = index - release.versions
        newest = self._models[index]
        sums = [self._of_group(group, index) for group in _groups(release, index)]
        report = self._run.close(index, _added(sums), newest)
        self._models[index + 1] = self._run.state
        needed = {index + 1, *release.at_work.tolist()}
        self._models = {v: m for v, m in self._models.items() if v in needed}
        num_sent = len(release.clients) + release.num_late
        traffic = self._traffic.of(num_sent + release.num_lost, num_sent)
        return private_facts(report, index, self._traffic) | {
            **traffic,
            "virtual_seconds": release.time,
            "num_lost": float(release.num_lost),
            "num_late": float(release.num_late),
            "staleness": float(staleness.mean()) if len(staleness) else 0.0,
        }

    def _of_group(self, group: "_Group", index: int) -> Sums:
        state = self._models[group.version]
        weight = np.float32(self._server.weights(np.array([index - group.version]))[0])
        weight = jax.device_put(weight, state.server.weight.sharding)
        number, self._groups = self._groups, self._groups + 1
        return self._run.add_up_clients(
            number,
            group.clients,
            group.steps,
            state._replace(server=state.server._replace(weight=weight)),
        )


class _Group(NamedTuple):
    """Different clients who trained from one model."""

    version: int
    clients: np.ndarray
    steps: np.ndarray


def _groups(release: Release, newest: int) -> list[_Group]:
    """Sorts reports by model, and repeated ones of a client apart; at least one."""
    found = []
    for version in np.unique(release.versions).tolist():
        left = np.flatnonzero(release.versions == version)
        while len(left):
            _, first = np.unique(release.clients[left], return_index=True)
            chosen = left[first]
            found.append(
                _Group(version, release.clients[chosen], release.steps[chosen])
            )
            left = np.setdiff1d(left, chosen)
    nobody = np.zeros(0, np.int64)
    return found or [_Group(newest, nobody, nobody)]


def _added(sums: list[Sums]) -> Sums:
    total = sums[0]
    for one in sums[1:]:
        total = _add(total, one)
    return total


_add = jax.jit(tree.add, donate_argnums=0)


class _Weighted(NamedTuple):
    """Something of the server's, and what this version's reports count."""

    inner: PyTree
    weight: jax.Array


def _weighted(algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
    """Returns the algorithm in which updates are multiplied by the server's weight.

    Before they are clipped, so that a weight of at most 1 keeps every bound.
    """
    local = algorithm.local

    def unwrapped(shared: Shared) -> Shared:
        return Shared(shared.params, shared.extra.inner)

    def finish(shared: Shared, carry: PyTree) -> ClientResult:
        result = local.finish(unwrapped(shared), carry)
        update = tree.scale(result.update, shared.extra.weight)
        return result._replace(update=update)

    def broadcast(server: _Weighted) -> Shared:
        shared = algorithm.broadcast(server.inner)
        return Shared(shared.params, _Weighted(shared.extra, server.weight))

    def apply(server: _Weighted, released: Released) -> _Weighted:
        return server._replace(inner=algorithm.apply(server.inner, released))

    return algorithm._replace(
        init=lambda params: _Weighted(algorithm.init(params), jnp.float32(1)),
        broadcast=broadcast,
        local=local._replace(
            init=lambda shared, kept: local.init(unwrapped(shared), kept),
            finish=finish,
        ),
        apply=apply,
    )


def _check_server(
    algorithm: FederatedAlgorithm, server: Server, params: Params
) -> None:
    """Refuses ways of waiting under which an algorithm is another one.

    Raises:
        ValueError: it is one of them.
    """
    privacy, kept = algorithm.aggregator, algorithm.local.init_client
    is_buffered = isinstance(server, Buffered)
    if server.is_race and not isinstance(privacy, Unprotected):
        raise ValueError(
            f"privacy must be none where the first reports count, as in {server!r}: "
            "whether a client takes part then depends on the others' data, and no "
            "sampler's guarantee covers that; pass privacy.none(...), or wait for a "
            "deadline."
        )
    if is_buffered and privacy.keeps_reports:
        raise ValueError(
            f"{privacy!r} needs all reports of one model, and {server!r} mixes those "
            "of several; pass timing.Synchronous(...)."
        )
    if is_buffered and jax.tree.leaves(jax.eval_shape(kept, params)):
        raise ValueError(
            f"clients of {algorithm.local!r} keep a state that belongs to the newest "
            f"model, and {server!r} has them at work on several; pass "
            "timing.Synchronous(...)."
        )
