"""Checkpoints: what a run needs to go on where it was, and no secret.

Arrays are saved by Orbax, in the background, whole or not at all; a few facts are saved
beside them as JSON. Digests over all of it tell a whole checkpoint from one that a
failing disk left: then the one before it is taken.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed.engine._client_states import ClientStates
from jaxfed.typing import PyTree

_FORMAT = 2
_LOG = logging.getLogger("jaxfed")
# whatever Orbax says of damaged files
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, RuntimeError)
# what a disk or a process says that is at its limit: the files may be whole
_FOR_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where and how often a run is saved.

    Args:
        directory: of this run alone; made if it is not there.
        every: save after so many rounds; also after the last, and when stopped.
        keep: how many to keep.
        client_state: whether what each client keeps for itself may be saved too. It is
            private, and says so by being asked for: the directory is then as
            confidential as the clients' data.
    """

    directory: str | Path
    every: int = 10
    keep: int = 2
    client_state: bool = False

    def __post_init__(self) -> None:
        directory = Path(self.directory).absolute()
        object.__setattr__(self, "directory", directory)
        check.positive_integer("save after so many rounds", every=self.every)
        check.positive_integer("keep at least one", keep=self.keep)
        check.instance(bool, "pass True or False", client_state=self.client_state)


class Saved(NamedTuple):
    """A checkpoint that was read."""

    round: int
    """How many rounds were finished."""
    state: PyTree
    facts: dict[str, Any]


def checked(checkpoint: Any) -> Checkpoint | None:
    """Returns the checkpoint that a caller named, by object or by path."""
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        return checkpoint
    remedy = "pass a directory, or jaxfed.Checkpoint(directory=...)"
    check.instance((str, Path), remedy, checkpoint=checkpoint)
    return Checkpoint(directory=checkpoint)


class Saver:
    """Saves and restores one run.

    Args:
        checkpoint: where and how often.

    Raises:
        RuntimeError: the directory cannot be used.
    """

    def __init__(self, checkpoint: Checkpoint):
        import orbax.checkpoint as ocp

        self._checkpoint, self._ocp = checkpoint, ocp
        where = Path(checkpoint.directory)
        if where.exists() and not where.is_dir():
            raise ValueError(
                f"checkpoint must name a directory, got the file {where}; name "
                "another place."
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=checkpoint.keep, create=True, enable_async_checkpointing=True
        )
        with self._errors("opened"):
            where.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(where, options=options)

    def is_due(self, rounds: int) -> bool:
        """Returns whether to save after that many rounds."""
        return rounds % self._checkpoint.every == 0

    def save(
        self,
        rounds: int,
        state: PyTree,
        facts: dict[str, Any],
        *,
        plan: str,
        clients: ClientStates | None = None,
    ) -> None:
        """Saves in the background, but for what clients keep.

        Args:
            rounds: how many are finished.
            state: arrays.
            facts: what JSON can hold.
            plan: the hash of what is run.
            clients: what they keep, if anything.

        Raises:
            RuntimeError: this checkpoint, or the one before, could not be written.
        """
        if rounds in self._manager.all_steps():
            return
        arrays = _arrays(state)
        facts = {
            "format": _FORMAT,
            "plan": plan,
            "round": rounds,
            "arrays": _digest_of_arrays(arrays),
            "layout": _layout(arrays),
            **facts,
        }
        args = self._ocp.args
        with self._errors("written"):
            if clients is not None:
                facts["clients"] = self._save_clients(rounds, clients)
            self._manager.save(
                rounds,
                args=args.Composite(
                    arrays=args.StandardSave(arrays),
                    facts=args.JsonSave(facts | {"digest": _digest_of_facts(facts)}),
                ),
            )

    @functools.cached_property
    def facts(self) -> dict[int, dict[str, Any] | None]:
        """What is known of each checkpoint that was found, newest first.

        None for one that cannot be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        return {rounds: self._facts(rounds) for rounds in steps}

    def latest(self, template: PyTree, *, plan: str) -> Saved | None:
        """Returns the newest checkpoint that is whole, or None if there is none.

        Newer ones, which cannot be read, are put aside: the run goes on from this one.

        Args:
            template: a state with the same structure, shapes and dtypes.
            plan: the hash of what is run.

        Raises:
            ValueError: the directory holds another run.
            RuntimeError: there are checkpoints, and none can be read.
        """
        damaged, layout = [], _layout(_arrays(template))
        for rounds, facts in self.facts.items():
            if facts is not None:
                if (facts["format"], facts["plan"]) != (_FORMAT, plan):
                    raise self.other_run()
                if facts["round"] != rounds:
                    raise ValueError(
                        f"checkpoint {rounds} in {self._checkpoint.directory} must be "
                        f"of round {rounds}, got that of round {facts['round']}; it "
                        "was renamed: give it its own name again, or remove it."
                    )
                if facts["layout"] != layout:
                    raise self._other_layout(rounds)
                state = self._read(rounds, template, facts)
                if state is not None and self._has_clients(rounds, facts):
                    self._put_aside(damaged)
                    return Saved(rounds, state, facts)
            damaged.append(rounds)
        if damaged:
            raise RuntimeError(
                f"{self._checkpoint.directory} must hold a checkpoint that can be "
                f"read, but all {len(damaged)} are damaged; mend the disk, or remove "
                "the directory to start from the first round."
            )
        return None

    def load_clients(self, rounds: int, clients: ClientStates) -> None:
        """Takes over what clients kept after that many rounds; it was checked.

        Raises:
            RuntimeError: it cannot be read.
        """
        with self._errors("read"):
            clients.load(self._of_clients(rounds))

    def wait(self) -> None:
        """Waits until everything is written."""
        with self._errors("written"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            self._remove_old_clients()

    def close(self) -> None:
        """Ends what goes on in the background."""
        self._manager.close()

    def _save_clients(self, rounds: int, clients: ClientStates) -> str:
        """Writes what clients keep; returns its digest."""
        path = self._of_clients(rounds)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._remove_old_clients()
        return clients.save(path)

    def _remove_old_clients(self) -> None:
        """Removes what clients kept after rounds that have no checkpoint any more."""
        needed = {str(number) for number in self._manager.all_steps()}
        for old in self._of_clients(0).parent.glob("*"):
            if old.name not in needed and old.is_file():
                old.unlink()

    def _has_clients(self, rounds: int, facts: dict[str, Any]) -> bool:
        """Returns whether what clients kept is there, as it was saved."""
        if "clients" not in facts:
            return True
        try:
            with self._of_clients(rounds).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            self._check_damage(rounds, error)
            self._warn(rounds, type(error).__name__)
            return False
        if found != facts["clients"]:
            self._warn(rounds, "what clients keep was changed")
        return found == facts["clients"]

    def _of_clients(self, rounds: int) -> Path:
        return Path(self._checkpoint.directory) / "client_states" / str(rounds)

    def _facts(self, rounds: int) -> dict[str, Any] | None:
        """Returns the facts of a checkpoint; None if they cannot be read."""
        try:
            facts = self._restored(rounds, facts=self._ocp.args.JsonRestore())["facts"]
            if facts.pop("digest") == _digest_of_facts(facts):
                return facts
            reason = "its facts were changed"
        except _UNREADABLE as error:
            self._check_damage(rounds, error)
            reason = type(error).__name__
        self._warn(rounds, reason)
        return None

    def _read(self, rounds: int, template: PyTree, facts: dict[str, Any]) -> Any:
        """Returns the state of a checkpoint; None if it cannot be read."""
        wanted = _arrays(template)
        try:
            args = self._ocp.args.StandardRestore(wanted)
            found = self._restored(rounds, arrays=args)["arrays"]
        except _UNREADABLE as error:
            self._check_damage(rounds, error)
            self._warn(rounds, type(error).__name__)
            return None
        arrays = {name: np.asarray(array) for name, array in found.items()}
        if facts["arrays"] != _digest_of_arrays(arrays):
            self._warn(rounds, "its arrays were changed")
            return None
        return _state(template, arrays)

    def _put_aside(self, damaged: list[int]) -> None:
        """Renames what cannot be read: Orbax saves nothing below its last round."""
        with self._errors("put aside"):
            for rounds in damaged:
                where = Path(self._checkpoint.directory)
                names = (f"damaged-{rounds}-{i}" for i in itertools.count(1))
                free = next(where / n for n in names if not (where / n).exists())
                (where / str(rounds)).rename(free)
            if damaged:
                self._manager.reload()

    def _check_damage(self, rounds: int, error: BaseException) -> None:
        """Refuses to take a process or a disk at its limit for a damaged checkpoint.

        Raises:
            RuntimeError: the files may be whole.
        """
        words = str(error).lower()
        said = any(os.strerror(number).lower() in words for number in _FOR_NOW)
        if said or getattr(error, "errno", None) in _FOR_NOW:
            raise RuntimeError(
                f"checkpoint {rounds} in {self._checkpoint.directory} could not be "
                f"read: {error}. It may be whole: nothing was changed. Close files, "
                "free memory or mend the disk, and run again; if it stays so, move "
                "this one away, and the run goes on from the one before."
            ) from error

    def _warn(self, rounds: int, reason: str) -> None:
        _LOG.warning(
            "checkpoint %d in %s cannot be read (%s); trying an older one",
            rounds,
            self._checkpoint.directory,
            reason,
        )

    def _other_layout(self, rounds: int) -> ValueError:
        return ValueError(
            f"checkpoint {rounds} in {self._checkpoint.directory} must hold the state "
            "of this server optimizer, privacy and client state, got arrays of other "
            "shapes or types: bring back what the run began with, or name another "
            "directory, from whose first round it is then repeated."
        )

    def other_run(self) -> ValueError:
        """Returns the error about checkpoints of another run."""
        return ValueError(
            f"checkpoint directory {self._checkpoint.directory} must hold this run, "
            "got checkpoints of another one (algorithm, privacy, model, loss, data, "
            "initial parameters, versions or seed); name another directory, or bring "
            "back what it began with."
        )

    def _restored(self, rounds: int, **items: Any) -> Any:
        return self._manager.restore(rounds, args=self._ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _errors(self, action: str) -> Generator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise RuntimeError(
                f"a checkpoint in {self._checkpoint.directory} could not be {action}: "
                f"{error}. Free some space, or let this process write there, and run "
                "again: it goes on from the last whole checkpoint, and no budget is "
                "spent twice."
            ) from error


def _arrays(state: PyTree) -> dict[str, np.ndarray]:
    """Returns the leaves that Orbax can store: those with elements."""
    leaves = [np.asarray(leaf) for leaf in jax.device_get(_plain(state))]
    return {f"leaf_{i}": leaf for i, leaf in enumerate(leaves) if leaf.size}


def _state(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    leaves, structure = jax.tree.flatten(template)
    found = [
        arrays.get(f"leaf_{i}", np.asarray(jax.device_get(leaf)))
        for i, leaf in enumerate(_plain(template))
    ]
    return structure.unflatten(map(_as, leaves, found))


def _plain(state: PyTree) -> list[Any]:
    """Returns the leaves, keys as the integers in them."""
    leaves = jax.tree.leaves(state)
    return [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]


def _as(like: Any, array: np.ndarray) -> Any:
    """Returns integers as the keys that they were."""
    if not _is_key(like):
        return array
    return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _layout(arrays: dict[str, np.ndarray]) -> str:
    """Returns a hash of names, dtypes and shapes."""
    values = [(n, str(a.dtype), a.shape) for n, a in sorted(arrays.items())]
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _digest_of_facts(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest_of_arrays(arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name}{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
