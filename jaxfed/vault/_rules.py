"""The rules of a plan: what its server promises about privacy, in numbers.

A vault cannot see the server's noise or cohort. It can see what a signed plan promises,
refuse what its own policy finds too little, and keep its own part: the clip, the grid,
and how often it takes part.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jaxfed.vault import _types
from jaxfed.vault._lattice import MOST_FINE_LEVELS, MOST_LEVELS, Group
from jaxfed.vault._numpy import np
from jaxfed.vault._types import require

LOCAL = ("local gaussian", "local laplace")
MECHANISMS = ("central gaussian", "central skellam", "central correlated", *LOCAL)
UNITS, RELATIONS = ("client", "example"), ("zero_out", "replace_one")
# of tables, in grid units: below, noise is no longer as good as a continuous law's
LEAST_SCALE, MOST_SCALE = 16.0, 2.0**23
_COUNTS = ("rounds", "clients", "least_cohort", "least_separation")
_COUNTS += ("most_participations",)


class Rules(NamedTuple):
    """What a plan promises; public."""

    mechanism: str
    """One of `MECHANISMS`. With a central one, the server is trusted to add the noise;
    with a local one, the vault adds it."""
    unit: str
    """Whose privacy it is."""
    relation: str
    epsilon: float
    """Of all rounds."""
    delta: float
    noise_multiplier: float
    """Noise over the clip norm."""
    rounds: int
    clients: int
    """How many there are."""
    least_cohort: int
    """Reports of one round without which nothing is released."""
    least_separation: int
    """Rounds from one participation of a client to its next."""
    most_participations: int
    """Of one client."""
    clip_is_fixed: bool
    """Or else it follows the released quantile."""
    count_levels: int
    """How much the report of a clip that follows counts; 0 for a fixed one."""
    noise_scale: float
    """Of the noise that a vault adds itself, in grid units; 0 if it adds none."""
    shift: int
    """Reports are whole multiples of 2**shift grid units."""
    groups: tuple[Group, ...]
    """What is clipped together, with the norms of the first round."""

    @property
    def is_local(self) -> bool:
        """Whether the vault adds the noise itself."""
        return self.mechanism in LOCAL

    @property
    def law(self) -> str:
        """The law of the noise."""
        return self.mechanism.partition(" ")[2]


def read(given: Any, num_leaves: int) -> Rules:
    """Returns the rules of a plan.

    Args:
        given: their plain values.
        num_leaves: how many arrays an update has.

    Raises:
        PlanError: they are not rules.
    """
    require(type(given) is dict, "rules must be named")
    require(set(given) == set(Rules._fields), "other rules are named", sorted(given))
    require(given["mechanism"] in MECHANISMS, "no such mechanism", given["mechanism"])
    for name, known in (("unit", UNITS), ("relation", RELATIONS)):
        require(given[name] in known, f"there is no such {name}", given[name])
    for name in ("epsilon", "delta", "noise_multiplier"):
        require(_positive(given[name]), f"{name} must be a number > 0", given[name])
    for name in _COUNTS:
        _types.positive(given[name])
    fits = given["least_cohort"] <= given["clients"]
    require(fits, "a cohort has more clients than there are")
    fits = given["most_participations"] <= given["rounds"]
    require(fits, "a client takes part in more rounds than there are")
    levels = _types.natural(given["count_levels"])
    require(levels <= MOST_LEVELS, "a grid is too fine", levels)
    is_local = given["mechanism"] in LOCAL
    most = MOST_FINE_LEVELS if is_local else MOST_LEVELS
    groups = _groups(given["groups"], num_leaves, most)
    _check_local(given, groups, is_local)
    _types.boolean(given["clip_is_fixed"])
    values: dict[str, Any] = {**given, "groups": groups}
    return Rules(**values)


def with_norms(rules: Rules, norms: np.ndarray) -> list[Group]:
    """Returns the groups with the clip norms of one round.

    Raises:
        PlanError: they are none, or a fixed clip moved.
    """
    fits = norms.shape == (len(rules.groups),) and bool((norms > 0).all())
    require(fits, "clip norms must be positive, one for each group", norms.shape)
    planned = np.array([group.norm for group in rules.groups], np.float32)
    is_same = not rules.clip_is_fixed or bool((norms == planned).all())
    require(is_same, "the clip must stay as it was planned")
    return [g._replace(norm=float(n)) for g, n in zip(rules.groups, norms)]


def delta_of(rules: Rules, reports: int) -> float:
    """Returns what so many reports cost at the promised epsilon: the least true delta.

    Of a local mechanism, of which a vault knows everything. A report hides any two
    updates of clipped norm, which are two clip norms apart. Gaussian: Balle and Wang
    2018, arXiv:1805.06530, theorem 8. Laplace: the optimal composition of what is
    2 / multiplier private by itself, Kairouz et al. 2015, arXiv:1311.0776, theorem 3.3.
    """
    epsilon = rules.epsilon
    if rules.law == "gaussian":
        mu = 2 * math.sqrt(reports) / rules.noise_multiplier
        above = math.erfc((epsilon / mu - mu / 2) / math.sqrt(2)) / 2
        below = math.erfc((epsilon / mu + mu / 2) / math.sqrt(2)) / 2
        return above - (math.exp(epsilon + math.log(below)) if below else 0.0)
    one, terms = 2 / rules.noise_multiplier, []
    whole = reports * _log_sum(0.0, one)
    for lies in range(reports // 2 + 1):
        loss = (reports - 2 * lies) * one
        if loss <= epsilon:
            break
        ways = math.lgamma(reports + 1) - math.lgamma(lies + 1)
        ways -= math.lgamma(reports - lies + 1)
        share = -math.expm1(epsilon - loss)
        terms.append(share * math.exp(ways + (reports - lies) * one - whole))
    return math.fsum(terms)


def _log_sum(a: float, b: float) -> float:
    """Returns log(exp(a) + exp(b))."""
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def _check_local(given: Any, groups: tuple[Group, ...], is_local: bool) -> None:
    """Checks that the noise of a vault is what the rules promise."""
    scale, shift = given["noise_scale"], _types.natural(given["shift"])
    if not is_local:
        require(scale == 0 and shift == 0, "the server adds this noise", scale)
        return
    fits = len(groups) == 1 and given["count_levels"] == 0 and given["clip_is_fixed"]
    require(fits and shift <= 24, "a local mechanism has one fixed clip")
    promised = given["noise_multiplier"] * groups[0].levels
    fits = _positive(scale) and abs(scale - promised) <= 1e-9 * promised
    fits = fits and LEAST_SCALE <= scale <= MOST_SCALE
    require(fits, "noise must be as promised", scale)


def _groups(given: Any, num_leaves: int, most: int) -> tuple[Group, ...]:
    require(type(given) is list and 0 < len(given) <= 4096, "groups must be listed")
    found = []
    for one in given:
        named = type(one) is dict and set(one) == set(Group._fields)
        require(named, "a group is wrong", one)
        levels, target = _types.positive(one["levels"]), _types.positive(one["target"])
        require(levels <= most, "a grid is too fine", levels)
        require(target <= levels, "a target is beyond its bound", target)
        require(_positive(one["norm"]), "a clip norm must be > 0", one["norm"])
        is_random = _types.boolean(one["is_random"])
        indices = _types.registers(one["indices"])
        found.append(Group(indices, float(one["norm"]), levels, target, is_random))
    named = sorted(index for group in found for index in group.indices)
    require(named == list(range(num_leaves)), "every array must be in one group")
    return tuple(found)


def _positive(value: Any) -> bool:
    is_number = type(value) in (int, float) and math.isfinite(value)
    return is_number and value > 0
