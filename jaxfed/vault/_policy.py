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

from jaxfed.vault import _operations, _rules
from jaxfed.vault._errors import PolicyError
from jaxfed.vault._numpy import HAS_NUMPY
from jaxfed.vault._participation import Limits
from jaxfed.vault._plan import Plan
from jaxfed.vault._program import Cost
from jaxfed.vault._rules import Rules

_LEAST, _MOST = "least_", "most_"

# by name: the default, and what it limits in words
LIMITS: dict[str, tuple[Any, str]] = {
    "signers": ([], "public keys of servers, in hexadecimal; nobody else's plans run"),
    "mechanisms": (list(_rules.MECHANISMS), "kinds of noise that are enough"),
    "operations": (
        sorted([*_operations.TABLE, "cond", "scan"]),
        "operations that plans may use",
    ),
    "most_flops": (10**12, "floating-point operations of one round"),
    "most_calls": (10**7, "operations that are carried out in one round"),
    "most_bytes": (1 << 28, "bytes of arrays at once"),
    "most_rounds": (1000, "rounds of one run that this vault takes part in"),
    "most_attempts": (1000, "attempts at one round: each is computed anew"),
    "most_runs": (10, "runs in all: each has a budget of its own"),
    "least_separation": (1, "rounds from one participation to the next"),
    "least_cohort": (2, "reports without which a server must release nothing"),
    "least_noise": (0.1, "noise, in clip norms"),
    "most_epsilon": (20.0, "epsilon of a whole run"),
    "most_delta": (1e-3, "delta of a whole run"),
}
_A_STEP = 10  # how many operations a step takes as long as, beside its own
_A_ROW, _MANY = 20, 2000  # elements of a place in a batch; how many are like a call
_A_CALL, _AN_OBJECT = 50, 10  # flops and bytes, over Python's lists
_A_SLOT = 24  # bytes of a place in a batch, beside its example
_A_REPORT = 14  # how many updates large clip, grid and noise are, at most
_A_BLOCK = 1 << 23  # bytes of a block of noise


class Policy(NamedTuple):
    """A checked policy; see `LIMITS`."""

    signers: list[str]
    mechanisms: list[str]
    operations: list[str]
    most_flops: int
    most_calls: int
    most_bytes: int
    most_rounds: int
    most_attempts: int
    most_runs: int
    least_separation: int
    least_cohort: int
    least_noise: float
    most_epsilon: float
    most_delta: float

    def trusted(self) -> list[bytes]:
        """Returns the public keys of trusted servers."""
        return [bytes.fromhex(one) for one in self.signers]


def read(path: Path) -> Policy:
    """Reads a policy file.

    Raises:
        PolicyError: it is missing, or not a policy.
    """
    try:
        given = json.loads(path.read_text("utf-8"), object_pairs_hook=_once)
    except PolicyError:
        raise
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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a limit that is named twice: JSON takes the last one, people the first.

    Raises:
        PolicyError: one is.
    """
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PolicyError(f"a policy must name a limit once, got {twice[0]!r} twice.")
    return dict(pairs)


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
        if name == "signers":
            _check_signers(value)
            return
        unknown = [word for word in value if word not in default]
        if unknown:
            near = difflib.get_close_matches(unknown[0], default, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise PolicyError(f"{name} has no {unknown[0][:80]!r} ({meaning}){hint}")
        return
    kinds = (int, float) if isinstance(default, float) else (int,)
    is_number = type(value) in kinds and 0 <= value < 10**18
    if not is_number:
        kind = "a number" if isinstance(default, float) else "a whole number"
        raise PolicyError(f"{name} must be {kind} >= 0 ({meaning}), got {value!r}.")


def _check_signers(given: list[str]) -> None:
    for one in given:
        if len(one) != 64 or set(one) - set("0123456789abcdef"):
            raise PolicyError(
                f"signers must be 64 hexadecimal digits each, got {one[:80]!r}; copy "
                "what the server's operator published."
            )


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
    flops = sum(times * program.cost.flops for times, program in programs)
    calls = sum(times * (p.cost.calls + _A_STEP) for times, p in programs)
    # a batch is put together, element by element
    a_row = _A_ROW + sum(one.type.size for one in plan.rows)
    fetched = steps * batching.batch_size * a_row
    peak = max(program.cost.peak_bytes for _, program in programs)
    peak += _A_SLOT * batching.batch_size
    update = sum(one.type.bytes for one in plan.update)
    held = sum(one.type.bytes for one in (*plan.shared, *plan.kept))
    block = _A_BLOCK if plan.rules is not None and plan.rules.is_local else 0
    peak = max(peak, held + (1 + _A_REPORT) * update + block)
    if not HAS_NUMPY:  # each number is an object, and each operation on it takes time
        calls, peak = calls + (flops + fetched) // _A_CALL, _AN_OBJECT * peak
    calls += fetched // _MANY
    return Cost(operations=counts, flops=flops, calls=calls, peak_bytes=peak)


def refusals(policy: Policy, plan: Plan, num_examples: int) -> list[str]:
    """Returns why a policy refuses a plan; nothing if it does not.

    Args:
        policy: the owner's.
        plan: checked.
        num_examples: how many examples this vault has.
    """
    cost, found = cost_of(plan, num_examples), []
    unknown = set(cost.operations) - set(policy.operations)
    if unknown:
        found.append(f"it uses operations that are not allowed: {sorted(unknown)}")
    if plan.rules is not None and plan.rules.is_local and "cond" in cost.operations:
        found.append("it chooses by data, and how long that takes would tell")
    for name, value, unit in (
        ("most_flops", cost.flops, "floating-point operations"),
        ("most_calls", cost.calls, "operations carried out"),
        ("most_bytes", cost.peak_bytes, "bytes at once"),
    ):
        if value > getattr(policy, name):
            limit = getattr(policy, name)
            found.append(f"it takes {value:,} {unit}, more than {name} = {limit:,}")
    return found + _broken(policy, plan.rules)


def limits_of(policy: Policy, rules: Rules) -> Limits:
    """Returns how often this vault takes part in a run: the stricter of both."""
    return Limits(
        most_rounds=min(policy.most_rounds, rules.most_participations),
        least_separation=max(policy.least_separation, rules.least_separation),
        most_attempts=policy.most_attempts,
        most_runs=policy.most_runs,
    )


def _broken(policy: Policy, rules: Rules | None) -> list[str]:
    """Returns why what a plan promises is too little."""
    if rules is None:
        return ["it promises nothing about privacy"]
    found = []
    if rules.mechanism not in policy.mechanisms:
        found.append(f"its mechanism {rules.mechanism!r} is not in mechanisms")
    for value, limit, what in (
        (rules.least_cohort, "least_cohort", "it releases from a cohort of"),
        (rules.noise_multiplier, "least_noise", "its noise is, in clip norms,"),
        (rules.epsilon, "most_epsilon", "its epsilon is"),
        (rules.delta, "most_delta", "its delta is"),
    ):
        allowed = getattr(policy, limit)
        is_less = limit.startswith(_LEAST) and value < allowed
        is_more = limit.startswith(_MOST) and value > allowed
        if is_less or is_more:
            found.append(f"{what} {value:g}, and {limit} = {allowed:g}")
    if rules.is_local:  # which is this vault's own noise, and can be reckoned
        reports = min(policy.most_rounds, rules.most_participations)
        delta = _rules.delta_of(rules, reports)
        if delta > rules.delta:
            found.append(
                f"its noise gives delta {delta:.2g} at epsilon {rules.epsilon:g} in "
                f"{reports} rounds, and it promises {rules.delta:g}"
            )
    return found
