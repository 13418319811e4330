"""The moving parts of a run: who comes, what they do, and the state between rounds."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfed import _check as check
from jaxfed import keys, sampling
from jaxfed.data import FederatedData
from jaxfed.engine import _devices, _feed, _hosts
from jaxfed.engine._chunk import Sums
from jaxfed.engine._client_states import ClientStates, Kept
from jaxfed.engine._feed import Fed
from jaxfed.engine._loop import Loop
from jaxfed.engine._planner import Planner
from jaxfed.engine._round import RoundState
from jaxfed.engine._stepped import Stepped
from jaxfed.engine._strategy import Strategy
from jaxfed.ledger import Permit
from jaxfed.typing import FederatedAlgorithm, Params, PyTree, RoundReport

_EXECUTORS = {"loop": Loop, "stepped": Stepped}


class _Plan(NamedTuple):
    """Who comes to a round and what they do."""

    number: jax.Array
    """() int32, on every device: the round's."""
    blocks: Iterable[Fed]
    attendance: Any
    """Of all clients after the round; None where no contract limits it."""


class Summed(NamedTuple):
    """A round up to its sum. Private."""

    plan: _Plan
    kept: list[Kept]
    """What its clients keep from now on, if it is released."""
    sums: Sums
    """Leaves (devices, ...)."""

    def digest(self) -> bytes:
        """Returns the SHA-256 of the sum over all devices: what a release noises."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.sums.encoded)]
        return digest_of_sum(
            # exact, and so the same on any devices
            leaf.sum(axis=0, dtype=leaf.dtype) if leaf.dtype.kind == "i" else leaf
            for leaf in leaves
        )


def digest_of_sum(leaves: Iterable[np.ndarray]) -> bytes:
    """Returns the SHA-256 of a sum, array by array."""
    found = hashlib.sha256()
    for leaf in leaves:
        found.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return found.digest()


class Run:
    """One run of an algorithm over simulated clients.

    Args:
        algorithm: what to run.
        data: the clients.
        arrays: the data's arrays as `host_arrays` returns them.
        params: the initial parameters.
        root: the root key of the run.
        rounds: how many are planned.
        strategy: how rounds are executed, all fields filled in.

    Attributes:
        state: what the next round needs; a copy on every device.
        states: what clients keep. Private.
    """

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        data: FederatedData,
        arrays: dict[str, np.ndarray],
        params: Params,
        root: jax.Array,
        rounds: int,
        strategy: Strategy,
    ):
        privacy = algorithm.aggregator
        _hosts.check_devices(strategy.devices or jax.device_count())
        _hosts.check_alike(
            root=jax.random.key_data(root),
            rounds=rounds,
            strategy=strategy,
            params=params,
            clients=data.offsets,
            arrays={n: (a.dtype, a.shape) for n, a in arrays.items()},
        )
        self._sampling, self._rounds = privacy.sampling, rounds
        horizon = max(rounds, getattr(privacy, "rounds", None) or 1)
        self._contract = self._sampling.participation(horizon)
        self._attendance = None
        if self._contract.max_participations < horizon:  # something to keep
            self._attendance = sampling.no_attendance(data.num_clients)
        mesh = _devices.mesh_of(strategy.devices)
        size = sum(array.nbytes for array in arrays.values())
        assert strategy.resident_bytes is not None
        assert strategy.lanes is not None
        assert strategy.executor is not None
        if size > strategy.resident_bytes:
            self._feeder = _feed.Streamed(mesh, data, arrays)
        else:
            self._feeder = _feed.Resident(mesh, arrays)
        widths = strategy.batch_widths or ()
        self._planner = Planner(
            data,
            algorithm.local.batching,
            max_clients=self._sampling.max_clients,
            expected_clients=self._sampling.expected_clients,
            lanes=min(strategy.lanes, self._sampling.max_clients),
            widths=widths,
            devices=mesh.devices.size,
            block_clients=_block_clients(privacy, strategy, mesh),
            is_streamed=self._feeder.is_streamed,
        )
        execute = _EXECUTORS[strategy.executor]
        self._executor = execute(algorithm, mesh, widths, self._feeder.is_streamed)
        self._root = root
        self._root_everywhere = _devices.everywhere(mesh, root)
        aggregator = privacy.init(algorithm.local.sends(params))
        state = RoundState(algorithm.init(params), aggregator)
        self.state = _devices.everywhere(mesh, state)
        self.states = ClientStates(
            algorithm.local.init_client(params),
            data.num_clients,
            mesh=mesh,
            most_bytes=strategy.resident_bytes,
            directory=strategy.state_directory,
        )
        self._mesh = mesh
        self._ahead: tuple[int, _Plan] | None = None

    def one_round(self, index: int) -> RoundReport:
        """Runs round `index`, and plans the one after it while devices work."""
        plan = self._planned(index)
        self.state, report = self._executor.run(
            self.state,
            self._with_states(plan.blocks),
            plan.number,
            self._root_everywhere,
            self.states.keep,
        )
        self._finish(index, plan)
        self.states.settle()
        return report

    def add_up(self, index: int, root: jax.Array | None = None) -> Summed:
        """Runs round `index` up to its sum; it can be run again after that.

        Args:
            index: of the round.
            root: the root key, if it is another one than the run's.
        """
        everywhere = self._root_everywhere
        if root is None:
            plan = self._planned(index)
        else:
            everywhere = _devices.everywhere(self._mesh, root)
            plan = self._plan(index, self._attendance, root)
        kept: list[Kept] = []
        sums = self._executor.add_up(
            self.state,
            self._with_states(plan.blocks),
            plan.number,
            everywhere,
            lambda block, states: kept.append(Kept(block, states)),
        )
        return Summed(plan, kept, sums)

    def release(self, index: int, summed: Summed, permit: Permit) -> None:
        """Releases a sum that was paid for, and updates the server's model.

        Args:
            index: of the round.
            summed: from `add_up`.
            permit: for this sum; the noise's key comes from it.

        Raises:
            TypeError: there is no permit.
            LedgerError: it is for another sum.
        """
        remedy = "pay for the release first, with ledger.spending(...)"
        check.instance(Permit, remedy, permit=permit)
        everywhere = _devices.everywhere(self._mesh, permit.key(summed.digest()))
        # the report's private part stays on the devices, unread
        self.state, _ = self._executor.close(
            self.state, summed.sums, summed.plan.number, everywhere
        )
        for kept in summed.kept:
            self.states.keep(*kept)

    def finish(self, index: int, summed: Summed) -> None:
        """Ends a released round, and plans the one after it while devices work."""
        self._finish(index, summed.plan)
        self.states.settle()

    def client_states(self, numbers: np.ndarray) -> PyTree:
        """Returns what some clients keep, leaves (count, ...). Private."""
        return self.states.of_clients(numbers)

    def cohort(self, index: int) -> np.ndarray:
        """Returns the clients that the sampler draws for round `index`."""
        return self._sampling.draw(index, key=_sampling_key(self._root))

    def steps(self) -> np.ndarray:
        """Returns how many local steps each client takes, (num_clients,). Private."""
        return self._planner.steps

    def add_up_clients(
        self,
        number: int,
        clients: np.ndarray,
        most_steps: np.ndarray,
        state: RoundState,
    ) -> Sums:
        """Runs some clients up to their sum, from a state of the caller's.

        Args:
            number: decides on their batches and keys, as that of a round does.
            clients: (count,) distinct client numbers.
            most_steps: (count,) after how many local steps each ends.
            state: what they start from; a copy on every device.
        """
        key = _shuffling_key(self._root, np.int32(number))
        limits = np.zeros(self._planner.steps.shape, np.int64)
        limits[clients] = most_steps
        blocks = (b.cut(limits) for b in self._planner.plan(clients, key=key))
        sums = self._executor.add_up(
            state,
            self._with_states(self._feeder.feed(blocks)),
            _devices.everywhere(self._mesh, np.int32(number)),
            self._root_everywhere,
            self.states.keep,
        )
        self.states.settle()
        return sums

    def close(self, index: int, sums: Sums, state: RoundState) -> RoundReport:
        """Releases sums in round `index`, and goes on from the state that follows."""
        number = _devices.everywhere(self._mesh, np.int32(index))
        self.state, report = self._executor.close(
            state, sums, number, self._root_everywhere
        )
        return report

    def _with_states(self, blocks: Iterable[Fed]) -> Iterator[Fed]:
        """Yields blocks with what their clients keep, as it is when they start."""
        for block in blocks:
            states, room = self.states.of_block(block), self.states.room(block)
            yield block._replace(states=states, room=room)

    def resume(self, rounds: int, state: RoundState) -> None:
        """Goes on after that many rounds, with the state that they left."""
        self.state = _devices.everywhere(self._mesh, state)
        if self._attendance is None:
            return
        for index in range(rounds):
            clients = self._sampling.draw(index, key=_sampling_key(self._root))
            self._attendance = self._attended(self._attendance, clients, index)

    def _finish(self, index: int, plan: _Plan) -> None:
        self._attendance = plan.attendance
        if index + 1 < self._rounds:
            try:
                self._ahead = index + 1, self._plan(index + 1, plan.attendance)
            except Exception:  # this round's record comes first; then it is raised
                self._ahead = None

    def _planned(self, index: int) -> _Plan:
        if self._ahead is not None and self._ahead[0] == index:
            return self._ahead[1]
        return self._plan(index, self._attendance)

    def _plan(
        self, index: int, attendance: Any, root: jax.Array | None = None
    ) -> _Plan:
        """Draws a cohort, and plans its work; the first block is ready.

        The number is sent now because a NumPy scalar that is passed to a program of
        several devices costs 0.1 ms of every round.
        """
        root = self._root if root is None else root
        # a contract of participation is kept by the cohorts of one key
        sampling_root = root if attendance is None else self._root
        clients = self._sampling.draw(index, key=_sampling_key(sampling_root))
        if attendance is not None:  # refused before anything is released
            attendance = self._attended(attendance, clients, index)
        key = _shuffling_key(root, np.int32(index))
        blocks = self._feeder.feed(self._planner.plan(clients, key=key))
        first = next(blocks)
        number = _devices.everywhere(self._mesh, np.int32(index))
        return _Plan(number, itertools.chain([first], blocks), attendance)

    def _attended(self, attendance: Any, clients: np.ndarray, index: int) -> Any:
        return sampling.attend(
            attendance, clients, round_index=index, participation=self._contract
        )


def host_arrays(data: FederatedData) -> dict[str, np.ndarray]:
    """Returns the data's arrays in the widths that JAX has enabled.

    Arrays that have those widths are not copied, memory-mapped ones included.

    Raises:
        ValueError: a value does not fit.
    """
    arrays = {}
    for name, array in data.arrays.items():
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)
        if dtype == array.dtype:
            arrays[name] = array
            continue
        if dtype.kind in "iu" and array.size:
            limits = np.iinfo(dtype)
            if array.min() < limits.min or array.max() > limits.max:
                raise ValueError(
                    f"array {name!r} holds integers outside {dtype}; renumber them or "
                    "enable 64-bit JAX."
                )
        with np.errstate(over="ignore"):
            narrow = np.asarray(array, dtype)
        if dtype.kind == "f" and not np.isfinite(narrow).all():
            raise ValueError(
                f"array {name!r} holds values beyond {dtype}; scale them, or enable "
                "64-bit JAX."
            )
        arrays[name] = narrow
    return arrays


def _block_clients(privacy: Any, strategy: Strategy, mesh: Mesh) -> int:
    """Returns how many clients a block has: all, if their reports are read together."""
    if not getattr(privacy, "keeps_reports", False):
        return strategy.block_clients
    assert strategy.lanes is not None
    return (privacy.sampling.max_clients + strategy.lanes) * mesh.size


@jax.jit
def _sampling_key(root: jax.Array) -> jax.Array:
    """Returns the key of the run's cohorts."""
    return keys.for_purpose(root, keys.Purpose.SAMPLING)


@jax.jit
def _shuffling_key(root: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the key of the batches of a round."""
    return keys.for_round(keys.for_purpose(root, keys.Purpose.SHUFFLING), index)
