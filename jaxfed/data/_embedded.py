"""The two sets that come with the package: `rand_hie` and `fed_heart`.

Both are real health records. Features are scaled by **public bounds** only: what a
variable can be by its definition or by the study's design, never what the records
happen to hold, so that scaling spends no privacy. Values outside are clipped.

`packed/README.md` has the licences, the attribution, the checksums and the scripts
that rebuild the files.
"""

from importlib import resources
from typing import NamedTuple

import numpy as np

from jaxfed import _check as check
from jaxfed.data._federated_data import FederatedData


class _Bound(NamedTuple):
    low: float
    high: float
    why: str


# Numbers go from [low, high] to [-1, 1].
_RAND_HIE_NUMBERS = {
    "coins": _Bound(0, 100, "coinsurance, percent of a bill"),
    "linc": _Bound(0, 12, "log of yearly income in dollars; e**12 is 162,755"),
    "xage": _Bound(0, 70, "years; by design under 62 at enrolment, 3 or 5 years"),
    "educdec": _Bound(0, 25, "years of education of the decision maker"),
    "num": _Bound(1, 20, "persons in the family"),
    "mhi": _Bound(0, 100, "mental health index, a score out of 100"),
    "disea": _Bound(0, 60, "chronic disease index; no end is documented: a round one"),
    "mdeoff": _Bound(0, 1000, "dollars; by design at most 1,000 a year out of pocket"),
    "pioff": _Bound(0, 1000, "dollars; incentive that makes up for that maximum"),
    "lfam": _Bound(0, 3, "log of the family size; e**3 is 20"),
}
# Flags and shares stay as they are, in [0, 1]. A few physlm and black values lie
# in between because the study imputed them; time is the share of the year in it.
_RAND_HIE_SHARES = (
    *("tookphys", "black", "female", "time", "physlm", "child", "fchild", "idp"),
    *("hlthg", "hlthf", "hlthp"),
)
# Public constants for the few missing values: high school, and no such offer.
_RAND_HIE_FILL = {"educdec": 12.0, "mdeoff": 0.0, "pioff": 0.0}
# 4 log(1 + visits) / log(1 + 100), so 0 to 4. A wide range on purpose: last year's
# visits say more than all else, and clipped steps learn a wide feature sooner.
_VISITS = _Bound(0, 100, "visits to a doctor in a year, about two a week")
_VISITS_RANGE = 4.0
_MANY_VISITS = 4

_FED_HEART_NUMBERS = {
    "age": _Bound(20, 90, "years; adults sent to angiography"),
    "trestbps": _Bound(80, 200, "resting blood pressure, mm Hg, low to crisis"),
    "chol": _Bound(0, 600, "serum cholesterol, mg/dl; 0 means not measured"),
    "thalach": _Bound(60, 220, "highest heart rate, at rest to 220 minus age at 0"),
    "oldpeak": _Bound(-2, 6, "ST depression in exercise, mm; < 0 is elevation"),
}

RAND_HIE_FEATURES = (
    *("coins", "tookphys", "black", "linc", "xage", "female", "educdec", "time"),
    *("num", "mhi", "disea", "physlm", "mdeoff", "pioff", "child", "fchild"),
    *("lfam", "idp", "hlthg", "hlthf", "hlthp"),
    "last_year_visits",
    "no_visit_last_year",
    "no_previous_year",
)
"""Names of the 24 columns of `rand_hie().arrays["x"]`."""

FED_HEART_FEATURES = (
    *("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"),
    *("cp_atypical", "cp_non_anginal", "cp_asymptomatic"),
    *("restecg_st_t", "restecg_hypertrophy"),
)
"""Names of the 13 columns of `fed_heart().arrays["x"]`."""

FED_HEART_HOSPITALS = ("cleveland", "hungary", "switzerland", "va")
"""Client ids of `fed_heart()`, in order."""


def rand_hie() -> FederatedData:
    """Returns the RAND Health Insurance Experiment: 5,912 persons, 20,190 years.

    Each client is one person with 1 to 5 rows, one a year, in order. The task is to
    say who will see a doctor at least four times this year, from facts known by
    then. No array holds this year's use of care, which is the target.

    Returns:
        Arrays `x` (20190, 24) float32, with the columns `RAND_HIE_FEATURES`; `y`
        (20190,) int32, 1 for at least 4 visits to a doctor this year; `has_history`
        (20190,) bool, whether the person has an earlier row, which is where last
        year's visits come from (14,278 rows). For a few persons the earlier row is
        two years older. Columns `site` (1 to 6) and `plan` (1 to 19) of the design.
        Client ids are the study's person numbers.

    Source: Newhouse and others' experiment of 1974 to 1982, public domain, as in
    Cameron and Trivedi 2005, Microeconometrics, chapter 20.
    """
    packed = _load("rand_hie.npz")
    rows = packed["rows"].astype(np.int64)
    raw = {
        name.removeprefix("row_"): values
        for name, values in packed.items()
        if name.startswith("row_")
    } | {
        name.removeprefix("person_"): np.repeat(values, rows)
        for name, values in packed.items()
        if name.startswith("person_")
    }
    offsets = np.concatenate([[0], np.cumsum(rows)])
    has_history = np.ones(offsets[-1], bool)
    has_history[offsets[:-1]] = False
    return FederatedData(
        arrays={
            "x": _rand_hie_features(raw, has_history),
            "y": (raw["mdvis"] >= _MANY_VISITS).astype(np.int32),
            "has_history": has_history,
        },
        offsets=offsets,
        client_ids=packed["person"].astype(np.int32),
        columns={
            "site": packed["person_site"].astype(np.int32),
            "plan": packed["person_plan"].astype(np.int32),
        },
    )


def fed_heart(scaling: str = "public") -> FederatedData:
    """Returns Fed-Heart-Disease: 740 patients of 4 hospitals.

    Each client is one hospital, so the unit of privacy to ask for is the patient
    (example-level): four clients cannot hide one another. The task is to say who
    has heart disease. Rows, features and split are FLamby's.

    Args:
        scaling: `"public"` maps numbers from public clinical bounds to [-1, 1] and
            leaves flags at 0 and 1; `"none"` gives the recorded values. (FLamby
            scales by each hospital's own mean and deviation, which is not private.)

    Returns:
        Arrays `x` (740, 13) float32, with the columns `FED_HEART_FEATURES`; `y`
        (740,) int32, 1 for disease; `is_test` (740,) bool, FLamby's test rows.
        Client ids are `FED_HEART_HOSPITALS`.

    Raises:
        ValueError: an unknown scaling.

    Source: UCI Heart Disease, CC BY 4.0: Janosi, Steinbrunn, Pfisterer and Detrano
    1988, doi:10.24432/C52P4X. Cohort: Ogier du Terrail et al. 2022, FLamby,
    arXiv:2210.04620.
    """
    check.one_of(("public", "none"), scaling=scaling)
    packed = _load("fed_heart.npz")
    x = packed["x_tenths"] / 10.0
    if scaling == "public":
        for name, bound in _FED_HEART_NUMBERS.items():
            index = FED_HEART_FEATURES.index(name)
            x[:, index] = _to_unit(x[:, index], bound)
    return FederatedData(
        arrays={
            "x": x.astype(np.float32),
            "y": packed["y"].astype(np.int32),
            "is_test": packed["is_test"],
        },
        offsets=np.concatenate([[0], np.cumsum(packed["rows"].astype(np.int64))]),
        client_ids=np.array(FED_HEART_HOSPITALS),
    )


def _rand_hie_features(
    raw: dict[str, np.ndarray], has_history: np.ndarray
) -> np.ndarray:
    visits = np.zeros(len(has_history))
    visits[1:] = raw["mdvis"][:-1]
    visits = np.where(has_history, np.clip(visits, _VISITS.low, _VISITS.high), 0.0)
    made = {
        "last_year_visits": _VISITS_RANGE * np.log1p(visits) / np.log1p(_VISITS.high),
        "no_visit_last_year": has_history & (visits == 0),
        "no_previous_year": ~has_history,
    }
    for name, bound in _RAND_HIE_NUMBERS.items():
        values = raw[name].astype(np.float64)
        if name in _RAND_HIE_FILL:
            values = np.where(np.isnan(values), _RAND_HIE_FILL[name], values)
        made[name] = _to_unit(values, bound)
    for name in _RAND_HIE_SHARES:
        made[name] = np.clip(raw[name], 0.0, 1.0)
    return np.stack([made[name] for name in RAND_HIE_FEATURES], 1).astype(np.float32)


def _to_unit(values: np.ndarray, bound: _Bound) -> np.ndarray:
    """Clips to the bound and maps it to [-1, 1]."""
    clipped = np.clip(values, bound.low, bound.high)
    return 2.0 * (clipped - bound.low) / (bound.high - bound.low) - 1.0


def _load(name: str) -> dict[str, np.ndarray]:
    file = resources.files("jaxfed.data").joinpath("packed", name)
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as packed:
        return dict(packed)
