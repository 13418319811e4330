"""Citations: of what was used, and of nothing else."""

import io
import re
import types
from pathlib import Path

import optax
import pytest

import jaxfed as jf
from jaxfed import _cite
from tests.problems import logistic_loss

SOURCES = sorted((Path(jf.__file__).parent).rglob("*.py"))


def cited(algorithm, *parts):
    file = io.StringIO()
    jf.cite(algorithm, *parts, file=file)
    return re.findall(r"@misc{(\w+),", file.getvalue())


def central(**options):
    parts = {
        "sampling": jf.sampling.Full(population=4),
        "clipping": jf.clipping.Fixed(norm=1.0),
        "noise": jf.noise.Gaussian(multiplier=1.0),
    }
    return jf.privacy.central(**(parts | options))


def scaffold(privacy):
    local = jf.clients.scaffold(
        logistic_loss, learning_rate=0.1, batch_size=4, epochs=1
    )
    return jf.algorithms.scaffold(local, privacy)


def fedavg(privacy):
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    return jf.algorithms.fedavg(local, privacy)


def test_what_was_used_is_cited():
    none = jf.privacy.none(sampling=jf.sampling.Full(population=4), weighting="clients")
    assert cited(fedavg(none)) == ["mcmahan2017communication"]
    assert cited(scaffold(none)) == ["karimireddy2020scaffold"]
    private = cited(scaffold(central()))
    assert private[:2] == ["karimireddy2020scaffold", "noble2022differentially"]
    assert {"mcmahan2018learning", "canonne2020discrete"} <= set(private)
    adaptive = jf.clipping.Adaptive(quantile=0.5, initial=0.1)
    assert "andrew2021differentially" in cited(fedavg(central(clipping=adaptive)))
    adapted = cited(fedavg(none), "lora", "ffa_lora")
    assert adapted == ["mcmahan2017communication", "hu2021lora", "sun2024improving"]
    correlated = central(noise=jf.noise.BLT(multiplier=1.0), rounds=3)
    assert "dvijotham2024efficient" in cited(fedavg(correlated))


def test_attacks_and_robust_rules_are_cited():
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    none = jf.privacy.none(sampling=jf.sampling.Full(population=4))
    hostile = jf.attacks.scaled(local, factor=4.0)
    found = cited(jf.algorithms.fedavg(hostile, none))
    assert found == ["mcmahan2017communication", "bagdasaryan2020how"]
    names = {name for module in (jf.attacks, jf.clients) for name in dir(module)}
    assert set(_cite.LOCAL_WORK) < names
    rule = types.SimpleNamespace(rule=jf.robust.Krum(attackers=1))
    found = cited(jf.algorithms.fedavg(local, none)._replace(aggregator=rule))
    assert found == ["mcmahan2017communication", "blanchard2017machine"]


def test_a_compressor_and_what_is_inside_it_are_cited():
    none = jf.privacy.none(sampling=jf.sampling.Full(population=4))
    local = jf.clients.sgd(logistic_loss, optax.sgd(0.1), batch_size=4, epochs=1)
    rotated = jf.compression.Rotated(inner=jf.compression.TopK(fraction=0.1))
    local = jf.compression.compressed(local, rotated, error_feedback=True)
    assert cited(jf.algorithms.fedavg(local, none)) == [
        "mcmahan2017communication",
        "suresh2017distributed",
        "stich2018sparsified",
        "karimireddy2019error",
    ]


def test_every_name_has_its_papers_and_every_paper_a_name():
    used = {key for keys in _cite.ALGORITHMS.values() for key in keys}
    used |= {key for keys in _cite.COMPRESSION.values() for key in keys}
    used |= {key for keys in _cite.PRIVACY.values() for key in keys}
    used |= {key for keys in _cite.LOCAL_WORK.values() for key in keys}
    used |= {key for keys in _cite.PARTS.values() for key in keys}
    assert used | {"noble2022differentially"} == set(_cite.PAPERS)
    compressors = set(_cite.COMPRESSION) - {"error feedback"}
    assert compressors | {"Compressor"} == {
        name for name in dir(jf.compression) if name[0].isupper()
    }
    names = {name for name in dir(jf.algorithms) if not name.startswith("_")}
    assert names - {"measures"} <= set(_cite.ALGORITHMS) | {"mime"}
    known = {type_ for type_ in _cite.PRIVACY if type_[0].isupper()}
    found = {name for s in (jf.noise, jf.clipping) for name in dir(s)}
    text = "".join(path.read_text() for path in SOURCES)
    assert all(name in found or f"class {name}(" in text for name in known)


def test_the_numbers_are_those_of_the_docstrings():
    """Each paper's number stands in a file of this library, beside its year."""
    text = "".join(path.read_text() for path in SOURCES if path.name != "_papers.py")
    missing = [one.arxiv for one in _cite.PAPERS.values() if one.arxiv not in text]
    assert missing == []


def test_it_prints(capsys):
    jf.cite(fedavg(central()))
    assert capsys.readouterr().out.count("@misc{") == 4
    with pytest.raises(TypeError, match="FederatedAlgorithm"):
        jf.cite("fedavg")
    with pytest.raises(ValueError, match="part must be one of 'fedbuff'"):
        jf.cite(fedavg(central()), "loro")
