"""The page of published results is what was run, and its checks can fail."""

import dataclasses
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "reproduced.md"

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="a source archive holds no benchmarks"
)


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the benchmark as its command does."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.reproduce.{name}")


def tables():
    (found,) = re.findall(
        r"<!-- tables.*?-->\n(.*?)\n<!-- end of the tables -->",
        PAGE.read_text("utf-8"),
        re.DOTALL,
    )
    return found.strip()


def rows_of(module, document):
    kind = module("_experiment").Row
    names = {field.name for field in dataclasses.fields(kind)}
    return [kind(**{n: row[n] for n in names}) for row in document["rows"]]


def test_the_page_shows_the_results(module):
    experiment = module("_experiment")
    assert tables() == experiment.markdown(experiment.saved())


def test_the_results_are_as_the_experiments_say(module):
    """Words, levels and orders; and rows in another order of methods are not."""
    found = module("__main__").EXPERIMENTS
    for document in module("_experiment").saved():
        experiment = found[document["name"]]
        for word in ("title", "metric", "source", "recipe"):
            assert document[word] == getattr(experiment, word)
        assert document["differs"] == list(experiment.differs)
        rows = rows_of(module, document)
        experiment.check(rows, False)
        turned = [
            dataclasses.replace(row, values=other.values, published=other.published)
            for row, other in zip(rows, rows[::-1], strict=True)
        ]
        if experiment.name != "fashion_mnist":  # whose levels alone are looked at
            with pytest.raises(AssertionError):
                experiment.check(turned, False)
        worse = [
            dataclasses.replace(row, values=[v - 0.5 for v in row.values])
            for row in rows
        ]
        if rows[0].published is not None:
            with pytest.raises(AssertionError):
                experiment.check(worse, False)


def test_a_short_run(module, capsys):
    """The fastest of them, as its command runs it; a name that is none is refused."""
    module("__main__").main(["scaffold_quadratics", "--short"])
    assert "G = 100, K = 10, SCAFFOLD" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        module("__main__").main(["nothing"])
    assert "no experiment 'nothing'" in capsys.readouterr().err


def test_data_that_are_not_there_are_asked_for(module, tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        module("fashion_mnist").run([0], False, tmp_path)


def test_published_sizes_are_those_of_the_sets(module):
    """Thirty clients, the test rows that the repository's files have."""
    synthetic = module("fedprox_synthetic")
    totals = {"iid": 805, "(0, 0)": 897, "(0.5, 0.5)": 912, "(1, 1)": 1084}
    for name, total in totals.items():
        found = synthetic.problem(name, 0)
        assert found.train.num_clients == 30
        assert len(found.test["y"]) == total
