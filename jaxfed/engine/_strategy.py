"""The strategy: how a round is laid out on devices, and how that is chosen.

What was measured, and where: docs/speed.md. A strategy changes speed and the rounding
of client updates (to float tolerance); it never changes which examples a client sees,
its keys, or the sum of given updates.
"""

import dataclasses
from pathlib import Path

import jax

from jaxfed import _check as check
from jaxfed.engine._planner import BLOCK_CLIENTS

EXECUTORS = ("loop", "stepped")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy:
    """How rounds are executed; fields left at None are chosen by the engine.

    Args:
        executor: `"loop"`, the whole round in one compiled program; or `"stepped"`, one
            compiled program a local step, called from Python.
        lanes: how many clients are stepped side by side on a device.
        batch_widths: the batch widths that are compiled, from the full one downwards;
            the last batch of a pass runs at the narrowest that holds it.
        devices: on how many devices.
        block_clients: how many clients are planned and fed at once.
        resident_bytes: larger data is streamed from the host instead of kept on each
            device; what clients keep between rounds, if larger, lies in a file.
        state_directory: where that file is made; where temporary files are (`TMPDIR`)
            if not given. It has no name there and ends with the process.
        reason: why it was chosen, for people.
    """

    executor: str | None = None
    lanes: int | None = None
    batch_widths: tuple[int, ...] | None = None
    devices: int | None = None
    block_clients: int = BLOCK_CLIENTS
    resident_bytes: int | None = None
    state_directory: str | None = dataclasses.field(
        default=None, compare=False, repr=False
    )
    reason: str = dataclasses.field(default="as given", compare=False)

    def __post_init__(self) -> None:
        if self.executor is not None:
            check.one_of(EXECUTORS, executor=self.executor)
        for name in ("lanes", "devices", "block_clients", "resident_bytes"):
            if getattr(self, name) is not None:
                value = check.positive_integer(**{name: getattr(self, name)})
                object.__setattr__(self, name, value)
        if self.state_directory is not None:
            where = Path(self.state_directory).absolute()
            if not where.is_dir():
                raise ValueError(
                    f"state_directory must be a directory that exists, got {where}; "
                    "make it first, or leave it out."
                )
            object.__setattr__(self, "state_directory", str(where))
        if self.batch_widths is not None:
            remedy = "pass for example (20, 10)"
            check.instance((tuple, list), remedy, batch_widths=self.batch_widths)
            widths = tuple(
                check.positive_integer(batch_width=w) for w in self.batch_widths
            )
            if not widths or list(widths) != sorted(set(widths), reverse=True):
                raise ValueError(
                    f"batch_widths must fall from the full batch size, got {widths}; "
                    "pass for example (20, 10)."
                )
            object.__setattr__(self, "batch_widths", widths)

    def explain(self) -> str:
        """Returns the strategy and why it was chosen, in words."""
        widths = "/".join(map(str, self.batch_widths or ())) or "full"
        return (
            f"executor {self.executor}, {self.lanes} clients side by side on each of "
            f"{self.devices or jax.device_count()} devices, batches of {widths} rows: "
            f"{self.reason}"
        )
