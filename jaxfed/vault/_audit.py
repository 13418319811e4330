"""What a plan would do, in words, for whoever owns the data."""

from __future__ import annotations

from collections.abc import Sequence

from jaxfed.vault import _policy
from jaxfed.vault._plan import Plan
from jaxfed.vault._rules import Rules
from jaxfed.vault._types import Type


def words(plan: Plan, num_examples: int) -> str:
    """Returns what a plan reads, computes, sends and promises."""
    cost = _policy.cost_of(plan, num_examples)
    once = plan.batching
    passes = f"{once.epochs} passes" if once.epochs else f"{once.steps} batches"
    reads = ", ".join(f"{one.name} {one.type}" for one in plan.rows)
    size = sum(one.type.size for one in plan.update)
    kinds = [(count, name) for name, count in cost.operations.items()]
    most = f", most often {max(kinds)[1]}" if kinds else ""
    lines = [
        f"plan {plan.hash}",
        f"reads      {reads} of each example; nothing else",
        f"trains     {passes}, {once.batch_size} examples at a time",
        f"computes   {len(cost.operations)} kinds of operations{most}",
        f"           {cost.flops:,} operations on numbers for {num_examples:,} "
        f"examples, in {cost.peak_bytes:,} bytes",
        f"keeps here {_listed([one.type for one in plan.kept])}",
        f"sends      {size:,} integers, clipped; no metrics, no counts",
    ]
    return "\n".join([*lines, *_promised(plan.rules)])


def _promised(rules: Rules | None) -> list[str]:
    if rules is None:
        return ["promises   nothing: vaults refuse it"]
    norms = ", ".join(f"{group.norm:g}" for group in rules.groups[:5])
    clip = "" if rules.clip_is_fixed else " at first; it follows a released quantile"
    return [
        f"clips      to norm {norms}{clip}",
        f"promises   epsilon {rules.epsilon:g} at delta {rules.delta:g} for each "
        f"{rules.unit} ({rules.relation}) over {rules.rounds:,} rounds",
        f"           {rules.mechanism}: {_noise(rules)}",
        f"           nothing is released from fewer than {rules.least_cohort} of "
        f"{rules.clients} clients",
        f"           each takes part at most {rules.most_participations} times, "
        f"{rules.least_separation} rounds apart",
    ]


def _noise(rules: Rules) -> str:
    size = f"noise of {rules.noise_multiplier:g} clip norms"
    if rules.is_local:
        return f"this vault adds {size} to its report before it sends it"
    return f"the server adds {size}, and sees each report before that"


def printable(text: str) -> str:
    """Returns text that cannot command a terminal, whoever wrote the plan."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in text
    )


def judged(found: Sequence[str]) -> str:
    """Returns what a policy says to a plan, in words."""
    if not found:
        return "policy     would take part"
    return "\n".join(f"policy     refuses: {reason}" for reason in found)


def _listed(types: list[Type]) -> str:
    return ", ".join(map(str, types)) or "nothing between rounds"
