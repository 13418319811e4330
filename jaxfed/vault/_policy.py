"""A vault's own policy: what its owner lets plans do, whatever the server asks for.

A policy is a JSON file. What it does not name has the default below; what it names and
nobody knows is refused, since a misspelt limit would limit nothing.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxfed.vault import _operations
from jaxfed.vault._errors import PolicyError
from jaxfed.vault._plan import Plan
from jaxfed.vault._program import Cost

# by name: the default, and what it limits in words
LIMITS: dict[str, tuple[Any, str]] = {
    "operations": (sorted(_operations.TABLE), "operations that plans may use"),
    "most_flops": (10**12, "floating-point operations of one round"),
    "most_calls": (10**7, "operations that are carried out in one round"),
    "most_bytes": (1 << 28, "bytes of arrays at once"),
}
_NESTED = ("scan", "cond")


class Policy(NamedTuple):
    """A checked policy; see `LIMITS`."""

    operations: list[str]
    most_flops: int
    most_calls: int
    most_bytes: int


def read(path: Path) -> Policy:
    """Reads a policy file.

    Raises:
        PolicyError: it is missing, or not a policy.
    """
    try:
        given = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise PolicyError(
            f"the policy must be at {path}, got {error.strerror}; write one, or name "
            "it with --policy."
        ) from None
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{path} must be JSON: {error}.") from None
    if not isinstance(given, dict):
        raise PolicyError(f"{path} must name limits, got {type(given).__name__}.")
    return checked(given)


def checked(given: Mapping[str, Any]) -> Policy:
    """Returns a policy from its plain values.

    Raises:
        PolicyError: a limit is unknown, or of another kind than its default.
    """
    for name, value in given.items():
        if name not in LIMITS:
            near = difflib.get_close_matches(str(name), LIMITS, 1)
            hint = f"did you mean {near[0]!r}?" if near else "leave it out."
            raise PolicyError(f"a policy has no limit {name!r}; {hint}")
        _check(name, value, LIMITS[name][0])
    return Policy(**{name: given.get(name, LIMITS[name][0]) for name in LIMITS})


def _check(name: str, value: Any, default: Any) -> None:
    meaning = LIMITS[name][1]
    if isinstance(default, list):
        if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise PolicyError(f"{name} must be a list of words ({meaning}).")
        return
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 10**18:
        raise PolicyError(f"{name} must be a number >= 0 ({meaning}), got {value!r}.")


def cost_of(plan: Plan, num_examples: int) -> Cost:
    """Returns what a round of a plan takes with so many examples."""
    batching = plan.batching
    steps = batching.steps
    if steps is None:
        a_pass = -(-num_examples // batching.batch_size)
        steps = a_pass * (batching.epochs or 1)
    programs = ((1, plan.begin), (steps, plan.step), (1, plan.finish))
    counts: dict[str, int] = {}
    for _, program in programs:
        for name, count in program.cost.operations.items():
            counts[name] = counts.get(name, 0) + count
    return Cost(
        operations=counts,
        flops=sum(times * program.cost.flops for times, program in programs),
        calls=sum(times * program.cost.calls for times, program in programs),
        peak_bytes=max(program.cost.peak_bytes for _, program in programs),
    )


def refusals(policy: Policy, plan: Plan, num_examples: int) -> list[str]:
    """Returns why a policy refuses to compute a plan; nothing if it does not.

    Args:
        policy: the owner's.
        plan: checked.
        num_examples: how many examples this vault has.
    """
    cost, found = cost_of(plan, num_examples), []
    unknown = set(cost.operations) - set(policy.operations) - set(_NESTED)
    if unknown:
        found.append(f"it uses operations that are not allowed: {sorted(unknown)}")
    for name, value, unit in (
        ("most_flops", cost.flops, "floating-point operations"),
        ("most_calls", cost.calls, "operations carried out"),
        ("most_bytes", cost.peak_bytes, "bytes at once"),
    ):
        if value > getattr(policy, name):
            limit = getattr(policy, name)
            found.append(f"it takes {value:,} {unit}, more than {name} = {limit:,}")
    return found
