"""The moving parts of a run: who comes, what they do, and the state between rounds."""

import itertools
from collections.abc import Iterable

import jax
import numpy as np

from jaxfed import keys, sampling
from jaxfed.data import FederatedData
from jaxfed.engine import _devices, _feed, _hosts, _round
from jaxfed.engine._feed import Fed
from jaxfed.engine._loop import Loop
from jaxfed.engine._planner import Planner
from jaxfed.engine._stepped import Stepped
from jaxfed.engine._strategy import Strategy
from jaxfed.typing import FederatedAlgorithm, Params, RoundReport

_EXECUTORS = {"loop": Loop, "stepped": Stepped}


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
            block_clients=strategy.block_clients,
            is_streamed=self._feeder.is_streamed,
        )
        execute = _EXECUTORS[strategy.executor]
        self._executor = execute(algorithm, mesh, widths, self._feeder.is_streamed)
        self._root = root
        self._root_everywhere = _devices.everywhere(mesh, root)
        state = _round.init_state(algorithm, params, data.num_clients)
        self.state = _devices.everywhere(mesh, state)
        self._mesh = mesh
        self._ahead: tuple[int, tuple[jax.Array, Iterable[Fed]]] | None = None

    def one_round(self, index: int) -> RoundReport:
        """Runs round `index`, and plans the one after it while devices work."""
        number, blocks = self._planned(index)
        self.state, report = self._executor.run(
            self.state, blocks, number, self._root_everywhere
        )
        if index + 1 < self._rounds:
            try:
                self._ahead = index + 1, self._planned(index + 1)
            except Exception:  # this round's record comes first; then it is raised
                self._ahead = None
        return report

    def _planned(self, index: int) -> tuple[jax.Array, Iterable[Fed]]:
        """Draws a cohort; returns the round's number, on the devices, and its blocks.

        The first block is ready. The number is sent now because a NumPy scalar that
        is passed to a program of several devices costs 0.1 ms of every round.
        """
        if self._ahead is not None and self._ahead[0] == index:
            return self._ahead[1]
        sampling_key, shuffling_key = _host_keys(self._root, np.int32(index))
        clients = self._sampling.draw(index, key=sampling_key)
        attendance = self._attendance
        if attendance is not None:  # refused before anything is released
            attendance = sampling.attend(
                attendance, clients, round_index=index, participation=self._contract
            )
        word = keys.host_words(shuffling_key, 1)[0]
        blocks = self._feeder.feed(self._planner.plan(clients, word))
        first = next(blocks)
        self._attendance = attendance
        number = _devices.everywhere(self._mesh, np.int32(index))
        return number, itertools.chain([first], blocks)


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


@jax.jit
def _host_keys(root: jax.Array, index: jax.Array) -> list[jax.Array]:
    """Returns the keys for what is drawn on the host: the run's cohorts, a shuffle."""
    shuffling = keys.for_purpose(root, keys.Purpose.SHUFFLING)
    return [
        keys.for_purpose(root, keys.Purpose.SAMPLING),
        keys.for_round(shuffling, index),
    ]
