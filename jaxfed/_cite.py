"""Which papers a run rests on."""

from typing import Any, TextIO

from jaxfed import _check as check
from jaxfed._papers import PAPERS
from jaxfed.typing import FederatedAlgorithm

ALGORITHMS = {
    "fedavg": ["mcmahan2017communication"],
    "fedsgd": ["mcmahan2017communication"],
    "fedavgm": ["hsu2019measuring"],
    "fedadagrad": ["reddi2021adaptive"],
    "fedyogi": ["reddi2021adaptive"],
    "fedadam": ["reddi2021adaptive"],
    "fedprox": ["li2020federated"],
    "scaffold": ["karimireddy2020scaffold"],
    "fednova": ["wang2020tackling"],
    "feddyn": ["acar2021federated"],
    "mime": ["karimireddy2020mime"],
    "mimelite": ["karimireddy2020mime"],
    "fedexp": ["jhunjhunwala2023fedexp"],
    "qffl": ["li2020fair"],
    "afl": ["mohri2019agnostic", "ro2021communication"],
    "fedper": ["arivazhagan2019federated", "collins2021exploiting"],
    "ifca": ["ghosh2020efficient", "mansour2020three"],
    "evaluation": [],
}
# by the name of local work that is more than its algorithm's, attacks included
LOCAL_WORK = {
    "ditto": ["li2021ditto"],
    "apfl": ["deng2020adaptive"],
    "fine_tuned": ["yu2020salvaging"],
    "sign_flip": ["li2019rsa"],
    "scaled": ["bagdasaryan2020how"],
    "gaussian_noise": ["blanchard2017machine"],
}
# by the name of a compressor's class
COMPRESSION = {
    "StochasticQuantization": ["suresh2017distributed"],
    "TopK": ["stich2018sparsified"],
    "RandomK": ["konecny2016randomized", "stich2018sparsified"],
    "Rotated": ["suresh2017distributed"],
    "error feedback": ["karimireddy2019error"],
}
# what an algorithm cannot know: what its loss is made of, or its server's way
PARTS = {
    "fedbuff": ["nguyen2022federated"],
    "lora": ["hu2021lora"],
    "ffa_lora": ["hu2021lora", "sun2024improving"],
}
# by the name of a privacy object's class, or that of its noise, clip or rule
PRIVACY = {
    "Central": ["mcmahan2018learning", "doroshenko2022connect"],
    "CentralCorrelated": ["mcmahan2018learning", "doroshenko2022connect"],
    "Hypothetical": ["mcmahan2018learning", "doroshenko2022connect"],
    "Local": ["doroshenko2022connect"],
    "ExampleLevel": ["abadi2016deep", "doroshenko2022connect"],
    "Gaussian": ["canonne2020discrete"],
    "Laplace": ["canonne2020discrete"],
    "Skellam": ["agarwal2021skellam"],
    "Tree": ["kairouz2021practical", "canonne2020discrete"],
    "Banded": ["choquettechoo2023amplified", "canonne2020discrete"],
    "BLT": ["dvijotham2024efficient", "canonne2020discrete"],
    "PrivUnit": ["bhowmick2018protection"],
    "Adaptive": ["andrew2021differentially"],
    "Median": ["yin2018byzantine"],
    "TrimmedMean": ["yin2018byzantine"],
    "Krum": ["blanchard2017machine"],
    "GeometricMedian": ["pillutla2019robust"],
    "NormBounded": ["sun2019can"],
}


def cite(
    algorithm: FederatedAlgorithm, *parts: str, file: TextIO | None = None
) -> None:
    """Prints the BibTeX entries of what an algorithm is made of.

    Of the method, its privacy object with clip and noise, the accountant, a rule of
    robust aggregation and an attack; what was published without a name of its own, such
    as your own method, has none.

    Args:
        algorithm: any.
        *parts: what an algorithm cannot know: that its loss has adapters, `"lora"`, or
            `"ffa_lora"` of which b alone is trained; or `"fedbuff"`, a buffered server.
        file: where to; standard output if None.

    Raises:
        TypeError: it is no algorithm.
        ValueError: a part is unknown.
    """
    check.instance(
        FederatedAlgorithm,
        "pass for example algorithms.fedavg(...)",
        algorithm=algorithm,
    )
    used = _keys(algorithm)
    for part in parts:
        used += PARTS[check.one_of(PARTS, part=part)]
    used = list(dict.fromkeys(used))
    print("\n\n".join(PAPERS[key].bibtex(key) for key in used), file=file)


def _keys(algorithm: FederatedAlgorithm) -> list[str]:
    privacy: Any = algorithm.aggregator
    names = ("noise", "clipping", "rule")
    parts = [privacy, *(getattr(privacy, name, None) for name in names)]
    found = list(ALGORITHMS.get(algorithm.name, []))
    if algorithm.local.kind == "prox":
        found += ALGORITHMS["fedprox"]
    if algorithm.name == "scaffold" and type(privacy).__name__ in PRIVACY:
        found.append("noble2022differentially")
    found += LOCAL_WORK.get(algorithm.local.name.partition("(")[0], [])
    found += _of_compression(algorithm.local.compression)
    for part in parts:
        found += PRIVACY.get(type(part).__name__, [])
    return list(dict.fromkeys(found))


def _of_compression(compression: Any) -> list[str]:
    part, names = getattr(compression, "compressor", None), []
    while part is not None:
        names.append(type(part).__name__)
        part = getattr(part, "inner", None)
    if getattr(compression, "error_feedback", False):
        names.append("error feedback")
    return [key for name in names for key in COMPRESSION.get(name, [])]
