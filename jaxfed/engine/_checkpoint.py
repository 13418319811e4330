"""Checkpoints: what a run needs to go on where it was, and no secret.

Arrays are saved by Orbax, in the background, whole or not at all; a few facts are saved
beside them as JSON. A digest over all of it tells a whole checkpoint from one that a
failing disk left: then the one before it is taken.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed.typing import PyTree

_FORMAT = 1
_LOG = logging.getLogger("jaxfed")


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
        plan: the hash of what is run.

    Raises:
        ValueError: the directory holds another run.
        RuntimeError: it cannot be used.
    """

    def __init__(self, checkpoint: Checkpoint, plan: str):
        import orbax.checkpoint as ocp

        self._checkpoint, self._plan, self._ocp = checkpoint, plan, ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=checkpoint.keep, create=True, enable_async_checkpointing=True
        )
        with self._errors("opened"):
            Path(checkpoint.directory).mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(checkpoint.directory, options=options)

    def is_due(self, rounds: int) -> bool:
        """Returns whether to save after that many rounds."""
        return rounds % self._checkpoint.every == 0

    def save(self, rounds: int, state: PyTree, facts: dict[str, Any]) -> None:
        """Saves in the background.

        Raises:
            RuntimeError: this checkpoint, or the one before, could not be written.
        """
        if rounds in self._manager.all_steps():
            return
        arrays = _arrays(state)
        facts = {
            "format": _FORMAT,
            "plan": self._plan,
            "round": rounds,
            **facts,
        }
        args = self._ocp.args
        with self._errors("written"):
            self._manager.save(
                rounds,
                args=args.Composite(
                    arrays=args.StandardSave(arrays),
                    facts=args.JsonSave(facts | {"digest": _digest(arrays, facts)}),
                ),
            )

    def latest(self, template: PyTree) -> Saved | None:
        """Returns the newest checkpoint that is whole, or None if there is none.

        Args:
            template: a state with the same structure, shapes and dtypes.

        Raises:
            ValueError: the directory holds another run.
        """
        for rounds in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(rounds, template)
            except _OtherRun:
                raise ValueError(
                    f"checkpoint directory {self._checkpoint.directory} must hold this "
                    "run, got checkpoints of another algorithm, privacy, model or "
                    "seed; name another directory, or bring back what it began with."
                ) from None
            except Exception as error:  # whatever Orbax says of damaged files
                _LOG.warning(
                    "checkpoint %d in %s cannot be read (%s); trying an older one",
                    rounds,
                    self._checkpoint.directory,
                    type(error).__name__,
                )
                continue
            return found
        return None

    def wait(self) -> None:
        """Waits until everything is written."""
        with self._errors("written"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Ends what goes on in the background."""
        self._manager.close()

    def _read(self, rounds: int, template: PyTree) -> Saved:
        args = self._ocp.args
        facts = self._restored(rounds, facts=args.JsonRestore())["facts"]
        if facts.get("format") != _FORMAT or facts.get("plan") != self._plan:
            raise _OtherRun
        wanted = _arrays(template)
        arrays = self._restored(rounds, arrays=args.StandardRestore(wanted))["arrays"]
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
        if found != {name: (a.shape, a.dtype) for name, a in wanted.items()}:
            raise _OtherRun
        digest = facts.pop("digest")
        if digest != _digest(arrays, facts):
            raise ValueError("its digest differs")
        return Saved(rounds, _state(template, arrays), facts)

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


class _OtherRun(Exception):
    """The checkpoint is of another plan."""


def _arrays(state: PyTree) -> dict[str, np.ndarray]:
    """Returns the leaves that Orbax can store: those with elements."""
    leaves = [np.asarray(leaf) for leaf in jax.device_get(jax.tree.leaves(state))]
    return {f"leaf_{i}": leaf for i, leaf in enumerate(leaves) if leaf.size}


def _state(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    leaves, structure = jax.tree.flatten(template)
    return structure.unflatten(
        [arrays.get(f"leaf_{i}", np.asarray(leaf)) for i, leaf in enumerate(leaves)]
    )


def _digest(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name}{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
