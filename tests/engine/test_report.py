"""Reports: what a page says, what it must never say, and that it stands alone."""

import dataclasses
import errno
import functools
import html
import itertools
import math
import os
import re
import shutil
import subprocess
import types
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.engine import History, RoundRecord, _report_charts, _report_html
from jaxfed.engine import _report_words as words
from jaxfed.engine._history import LedgerFacts
from jaxfed.ledger.__main__ import main as ledger_command
from jaxfed.privacy import Statement

DELTA = 1e-5
HEAD = "0123456789abcdef" * 4
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


# ---- histories


def statement(**changes):
    fields = {
        "claim": "After 2 rounds, (1, 1e-05)-private <for> each & every client.",
        "epsilon": 1.0,
        "delta": DELTA,
        "rounds": 2,
        "unit": "client",
        "relation": "zero_out",
        "sampling": "everybody",
        "protects": "one client",
        "not_covered": ("this", "that"),
        "units": (("example", 1, 2.0), ("client", 3, math.inf)),
    }
    return Statement(**fields | changes)


def record(number, *, epsilon=0.5, evaluation=None, private=None, released=None):
    return RoundRecord(
        round=number,
        epsilon=epsilon,
        evaluation=evaluation or {},
        private=private or {},
        released=released or {},
        seconds=None,
    )


def made(*records, claim=None, ledger=None, hypothetical=False, algorithm="fedavg()"):
    """Returns a history of those records; with a ledger, of a run that released."""
    claim = claim or statement(hypothetical=hypothetical)
    privacy = types.SimpleNamespace(
        delta=claim.delta,
        is_hypothetical=hypothetical,
        statement=lambda *, rounds, units: claim,
    )
    released = ledger is not None
    history = History(algorithm=algorithm, privacy=privacy, params={}, private=released)
    for one in records:
        history._record(one, state=None, params={})
    history._ledger = ledger
    return history


def facts(**changes):
    fields = {
        "name": "vaults.db",
        "head": HEAD,
        "entries": 47,
        "epsilon": 1.0032,
        "budget": 1.2,
        "delta": DELTA,
        "unit": "client",
        "relation": "zero_out",
        "repeats": 0,
    }
    return LedgerFacts(**fields | changes)


def page(history, folder, **options):
    history.report(folder / "report.html", **options)
    return (folder / "report.html").read_text(encoding="utf-8")


@functools.cache
def problem():
    """Returns an algorithm whose local metric has a name to look for, and its data."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 2, 2)).astype(np.float32)
    clients = {i: {"x": x, "y": x.sum(axis=1) > 0} for i, x in enumerate(rows)}
    data = jf.data.FederatedData.from_clients(clients)

    def loss(params, batch, key):
        del key
        losses = optax.sigmoid_binary_cross_entropy(
            batch["x"] @ params["w"], batch["y"].astype(jnp.float32)
        )
        return losses.mean(), {"margin_of_clients": losses.max()}

    privacy = jf.privacy.central(
        sampling=jf.sampling.Poisson(population=data.num_clients, rate=0.5),
        clipping=jf.clipping.Adaptive(quantile=0.5, initial=0.1),
        noise=jf.noise.Gaussian(multiplier=4.0),
    ).calibrated(epsilon=2.0, delta=DELTA, rounds=3)
    local = jf.clients.sgd(loss, optax.sgd(0.5), batch_size=2, epochs=1)
    return jf.algorithms.fedavg(local, privacy), data


def predict(params, rows):
    return rows["x"] @ params["w"]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    algorithm, data = problem()
    path = tmp_path_factory.mktemp("ledger") / "vaults <1>.db"
    jf.Ledger.create(path, epsilon=2.5, delta=DELTA).close()
    rows = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    examples = {"x": rows, "y": rows.sum(axis=1) > 0}
    return jf.train(
        algorithm,
        data,
        params={"w": jnp.zeros(2)},
        rounds=3,
        ledger=path,
        evaluate=jf.evaluation.public(predict, examples, accuracy=jf.metrics.accuracy),
        progress=False,
    )


@pytest.fixture(scope="module")
def simulated():
    algorithm, data = problem()
    return jf.simulate(
        algorithm,
        data,
        params={"w": jnp.zeros(2)},
        rounds=3,
        seed=0,
        evaluate=jf.evaluation.central(predict, data, accuracy=jf.metrics.accuracy),
        progress=False,
    )


def hostile():
    """A history whose every name is an attack, or too long for any line."""
    name = "<script>alert('x')</script>\"&" + "w" * 200
    return made(
        record(1, evaluation={name: 0.5}, released={"<i>": 1.0}, private={name: 1.0}),
        record(2, evaluation={name: 0.7}, private={name: 0.5}),
        algorithm=f"fedavg({name})",
    )


# ---- the page as HTML


class Checker(HTMLParser):
    """Collects elements, text and mistakes."""

    VOID = ("meta", "br", "img", "link", "hr", "input")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._part(tag)
        assert len(dict(attrs)) == len(attrs), f"{tag} names an attribute twice"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._part(tag)

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def _part(self, tag):
        if tag != "span":  # which is inside of a line
            self.text.append(" ")

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def everything(released, simulated):
    return {
        "released": released,
        "simulated": simulated,
        "hostile": hostile(),
        "nothing run": made(),
        "hypothetical": made(record(1), record(2), hypothetical=True),
        "odd": odd(),
        "long": long_run(),
    }


def odd():
    return made(
        record(1, epsilon=math.inf, evaluation={"a": math.nan, "b": math.inf}),
        record(2, epsilon=math.inf, evaluation={"a": math.nan, "b": 1e308}),
        record(3, epsilon=math.nan, evaluation={"b": -1e308, "c": 5e-324}),
        record(4, epsilon=0.5, evaluation={"c": 0.0}),
        claim=statement(epsilon=math.inf, claim="No privacy guarantee."),
    )


def long_run(rounds=10_000):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=rounds)
    return made(
        *(
            record(n, epsilon=math.sqrt(n) / 50, evaluation={"a": x, "b": -x})
            for n, x in enumerate(noise.tolist(), start=1)
        ),
        ledger=facts(epsilon=2.1, budget=3.0),
    )


def test_pages_are_well_formed_and_stand_alone(released, simulated, tmp_path):
    for name, history in everything(released, simulated).items():
        text = page(history, tmp_path)
        found = Checker(text)
        assert text.startswith("<!DOCTYPE html>"), name
        assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
        assert not re.search(r"url\(|@import|https?://|<a ", text), name
        loading = {"src", "href", "srcset", "action", "data", "poster"}
        assert not loading & {key for key, _ in found.attributes}
        assert not [key for key, _ in found.attributes if key.startswith("on")]
        assert "default-src 'none'" in html.unescape(text)


def test_ids_are_unique_and_what_is_referred_to_exists(released, simulated, tmp_path):
    for history in everything(released, simulated).values():
        attributes = Checker(page(history, tmp_path)).attributes
        ids = [value for key, value in attributes if key == "id"]
        assert len(ids) == len(set(ids))
        referred = [v.split() for key, v in attributes if key == "aria-labelledby"]
        assert {one for several in referred for one in several} <= set(ids)


def test_headings_descend_one_level_at_a_time(released, simulated, tmp_path):
    for history in everything(released, simulated).values():
        tags = Checker(page(history, tmp_path)).tags
        levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_every_name_is_escaped(tmp_path):
    text = page(hostile(), tmp_path, title="<h6>mine</h6>")
    assert "<script" not in text
    assert "<h6>" not in text
    assert "<i>" not in text
    found = Checker(text)
    assert "<script>alert('x')</script>\"&" in found.words
    assert "<h6>mine</h6>" in found.words
    assert "<for> each & every client" in found.words


def test_elements_escape_what_is_not_an_element():
    made = _report_html.element("p", "<b>", _report_html.element("i", 1), id='"<')
    assert made == '<p id="&quot;&lt;">&lt;b&gt;<i>1</i></p>'
    assert _report_html.prose("<1e-05> or 2e+7, 3") == (
        '&lt;<span class="number">1e-05</span>&gt; or <span class="number">2e+7</span>'
        ", 3"
    )


# ---- what a page of a release says, and what it must not


def test_a_released_page_says_what_was_guaranteed(released, tmp_path):
    assert released.private
    text = page(released, tmp_path, title="Model 3", units=[("client", 2)])
    shown = Checker(text).words
    claim = released._privacy.statement(rounds=3, units=[("client", 2)])
    assert claim.claim in shown
    for name, phrases in claim.parts.items():
        assert name in shown
        assert all(phrase[1:] in shown for phrase in phrases)
    assert "Other units" in shown
    assert "2 clients together: epsilon" in shown
    assert "Within budget: epsilon 2 of 2.5 is spent at delta 1e-05" in shown
    assert "Model 3" in shown
    assert "simulation:" not in shown.lower().replace("simulation's seed", "")
    assert 'class="alarm' not in text
    assert released.algorithm in shown


def test_a_released_page_says_how_to_check_the_ledger(released, tmp_path):
    shown = Checker(page(released, tmp_path)).words
    facts = released.ledger
    assert facts.head in shown
    assert "python -m jaxfed.ledger verify 'vaults <1>.db'" in shown
    assert f"entry {facts.entries - 1}, whose hash has to begin with" in shown
    assert f"Entries {facts.entries} " in shown


def test_the_entry_that_a_page_names_is_the_head(tmp_path, capsys):
    path = tmp_path / "b.db"
    with jf.Ledger.create(path, epsilon=2.5, delta=DELTA) as ledger:
        algorithm, _ = problem()
        ledger.plan(algorithm.aggregator, name="training")
        entries, head = len(ledger.history()), ledger.head
    assert ledger_command(["show", "--all", str(path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"^ *{entries - 1} .* {head[:12]}", shown, re.MULTILINE)


def test_a_released_page_lists_what_came_out_and_what_did_not(released, tmp_path):
    shown = Checker(page(released, tmp_path)).words
    assert "The model's parameters after each of 3 rounds" in shown
    assert "clip_norm, after 3 rounds" in shown
    assert "accuracy, after 3 rounds" in shown
    assert "What is not released Which clients took part" in shown


def test_a_released_page_has_no_private_value(released, simulated, tmp_path):
    text = page(released, tmp_path)
    for word in ("num_clients", "num_failed", "margin_of_clients", "seconds"):
        assert word not in text
    assert "margin_of_clients" in page(simulated, tmp_path)


def test_private_values_in_a_released_record_are_not_looked_at(tmp_path):
    history = made(record(1), record(2), ledger=facts())
    before = page(history, tmp_path)
    history.rounds[:] = [
        dataclasses.replace(one, private={"loss": 0.123, "num_clients": 7}, seconds=9.8)
        for one in history.rounds
    ]
    assert page(history, tmp_path) == before


def test_versions_are_named(released, tmp_path):
    shown = Checker(page(released, tmp_path)).words
    assert f"jaxfed {jf.__version__}, jax " in shown
    for name in ("numpy", "dp-accounting", "Python"):
        assert re.search(rf"{name} \d+\.\d+", shown)


def test_a_run_that_has_not_ended_has_no_ledger_yet(tmp_path):
    history = made(record(1), ledger=facts())
    history._ledger = None
    shown = Checker(page(history, tmp_path)).words
    assert "Not noted yet: the run had not ended" in shown
    assert "Released with privacy: epsilon 1 at delta 1e-05 in 2 rounds" in shown


# ---- simulations


def test_a_simulation_says_so_where_nobody_can_miss_it(simulated, tmp_path):
    text = page(simulated, tmp_path)
    found = Checker(text)
    assert found.words.count("Simulation: nothing on this page may be released") == 1
    assert '<div class="alarm strip" role="note">' in text
    assert "<title>Simulation, not for release: Privacy report</title>" in text
    assert 'content: "SIMULATION: not for release"' in text  # on every printed sheet
    assert "as it would be" in found.words
    assert "A real run of this mechanism would spend epsilon 2 at" in found.words
    assert "a simulation spends nothing" in found.words
    assert "exact and private" in found.words


def test_a_hypothetical_run_says_that_too(tmp_path):
    shown = Checker(page(made(record(1), hypothetical=True), tmp_path)).words
    assert "Hypothetical simulation: nothing on this page may be released" in shown
    assert "Every epsilon is HYPOTHETICAL" in shown
    assert "Hypothetical epsilon after each round, as it would be" in shown
    assert "Only a real run with the larger cohort would spend" in shown
    assert "HYPOTHETICAL: only a real run with the larger cohort could claim" in shown


def test_a_simulation_claims_the_planned_rounds(tmp_path):
    shown = Checker(page(made(record(1, epsilon=0.5)), tmp_path)).words
    assert "would spend epsilon 1 at delta 1e-05 in 2 rounds, for each client" in shown
    assert "Planned were 2 rounds" in shown


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"epsilon": math.inf}, "No privacy guarantee: epsilon is infinite"),
        ({"epsilon": None, "delta": None}, "is unknown, because no delta was named"),
        ({"delta": None}, "would spend epsilon 1 at delta 0 in 2 rounds"),
        ({"unit": "example"}, "in 2 rounds, for each example."),
    ],
)
def test_verdicts_of_other_claims(changes, verdict, tmp_path):
    history = made(record(1, epsilon=None), claim=statement(**changes))
    assert verdict in Checker(page(history, tmp_path)).words


def test_no_evaluation_and_no_round_are_said(tmp_path):
    assert "No evaluation was recorded." in page(made(record(1)), tmp_path)
    shown = Checker(page(made(), tmp_path)).words
    assert "Nothing was run" in shown
    assert "0 models simulated" in shown


# ---- numbers


@pytest.mark.parametrize(
    ("spent", "verdict"),
    [
        (1.0000001, "Within budget: epsilon 1.01 of 1.2 is"),
        (1.1999, "Within budget: epsilon 1.2 of 1.2 is"),
        (1.2000001, "Over budget: epsilon 1.21 of 1.2 is"),
    ],
)
def test_what_is_spent_is_rounded_up(spent, verdict, tmp_path):
    history = made(record(1), ledger=facts(epsilon=spent))
    assert verdict in Checker(page(history, tmp_path)).words


def test_a_budget_of_many_digits_is_not_exceeded_by_rounding():
    guarantee = words.Guarantee(1.2341, DELTA, 1.2345, "client", "zero_out", None)
    assert guarantee.spent == "1.2341"
    assert guarantee.share == "100\u202f%"


def test_no_epsilon_of_the_table_is_below_the_true_one(tmp_path):
    epsilons = np.random.default_rng(0).uniform(0, 3, size=40).tolist()
    text = page(
        made(*(record(i + 1, epsilon=e) for i, e in enumerate(epsilons))), tmp_path
    )
    cells = re.findall(r'<th scope="row">(\d+)</th><td>([^<]+)</td>', text)
    assert [int(number) for number, _ in cells] == [*range(1, 41)]
    for (_, shown), epsilon in zip(cells, epsilons, strict=True):
        assert epsilon <= float(shown) <= 1.01 * epsilon + 1e-9


def test_a_title_cannot_command_a_terminal(tmp_path):
    with pytest.raises(ValueError, match="one printable line"):
        page(made(record(1)), tmp_path, title="\x1b[2J")


def test_releases_of_repeated_rounds_are_counted(tmp_path):
    text = page(made(record(1), ledger=facts(repeats=2)), tmp_path)
    assert "3 models released" in text
    assert "and 2 more of rounds that were released again" in text


@pytest.mark.parametrize(
    ("epsilon", "delta", "percent"), [(1.0, 0.0, 74), (3.0, 0.0, 96), (0.0, 0.05, 53)]
)
def test_in_plain_words_is_the_best_guess(epsilon, delta, percent):
    """Of the pair that meets (epsilon, delta) exactly: randomised response."""
    guarantee = words.Guarantee(epsilon, delta, epsilon, "client", "zero_out", None)
    history = made(record(1), ledger=facts())
    told = (1 - delta) * math.exp(epsilon) / (1 + math.exp(epsilon)) + delta
    assert math.ceil(100 * told) == percent
    said = words.in_plain_words(history, guarantee)
    assert said is not None
    assert f"at most {percent}\u202f%" in said
    other = guarantee._replace(relation="replace_one", unit="example")
    assert "which of two possible data sets of one example" in words.in_plain_words(
        history, other
    )
    # a run may have stopped because of its results: the budget is what holds
    more = words.in_plain_words(history, guarantee._replace(budget=5.0, delta=0.0))
    assert more is not None
    assert "at most 100\u202f%" in more
    for nothing in (math.inf, None):
        assert (
            words.in_plain_words(history, guarantee._replace(epsilon=nothing)) is None
        )


def test_a_delta_in_words():
    assert words.chance_words(1e-5) == "1 in 100,000"
    assert words.chance_words(3e-6) == "1 in 333,333"
    assert words.chance_words(None) is None
    assert words.chance_words(0.0) is None
    assert words.delta_words(1.23456789e-6) == "1.23457e-06"


# ---- charts


def test_values_that_are_not_finite_are_told_and_not_drawn(tmp_path):
    text = page(odd(), tmp_path)
    shown = Checker(text).words
    assert "No finite value to draw." in shown
    for word in ("not a number", "infinity", "infinite", "1e+308"):
        assert word in shown
    drawn = re.findall(r' d="([^"]*)"| c[xy]="([^"]*)"', text)
    assert drawn
    assert not re.search(r"nan|inf", " ".join(map("".join, drawn)))


def test_a_gap_is_a_gap():
    nan = math.nan
    drawn = _report_charts._path([(0, 1), (1, 2), (2, nan), (3, 4), (4, nan)])
    assert 'd="M0.00 1.00h0L1.00 2.00M3.00 4.00h0"' in drawn


def test_one_round_is_a_page(tmp_path):
    text = page(made(record(1, evaluation={"a": 0.5})), tmp_path)
    assert "after the one round" in text
    assert text.count("<circle") == 2


def test_ten_thousand_rounds_are_a_small_page(tmp_path):
    text = page(long_run(), tmp_path)
    assert len(text) < 100_000
    assert text.count("<tr>") == 3 * 51
    assert "50 of 10,000 values of a" in text
    assert text.count("<circle") == 3


def test_a_thinned_curve_keeps_its_ends_and_extremes():
    rounds = np.arange(1, 10_001)
    values = np.random.default_rng(0).normal(size=10_000)
    values[[500, 7000]] = [9.0, -9.0]
    values[4000] = math.nan
    kept, thin = _report_charts._thinned(rounds, values)
    assert len(kept) <= 3 * _report_charts._BUCKETS + 2
    assert (kept[0], kept[-1]) == (1, 10_000)
    assert {501, 4001, 7001} <= set(kept.tolist())
    np.testing.assert_array_equal(thin, values[kept - 1])


@pytest.mark.parametrize(
    "last", [2, 3, 5, 6, 7, 9, 20, 23, 37, 99, 1000, 10_000, 12_345]
)
def test_rounds_are_numbered_at_both_ends_and_never_crowded(last):
    ticks = _report_charts._across(last).ticks
    assert (ticks[0], ticks[-1]) == (1, last)
    assert len(ticks) <= 6
    assert all(tick == int(tick) for tick in ticks)
    assert min(np.diff(ticks)) >= 0.1 * (last - 1)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.4, 0.72), (-1e300, 1e300), (1e-320, 2e-320), (5, 5), (0, 0), (-3, -1)],
)
def test_an_axis_holds_what_it_shows(low, high):
    scale = _report_charts._scale(float(low), float(high))
    assert scale.low <= low <= high <= scale.high
    assert 1 <= len(scale.ticks) <= 7
    assert 0 <= scale.at(low) <= scale.at(high) <= 100
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)


# ---- files


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"path must be in a folder that exists, got '.*gone"
    ):
        made(record(1)).report(tmp_path / "gone" / "report.html")
    with pytest.raises(
        IsADirectoryError, match="path must name a file, got the folder"
    ):
        made(record(1)).report(tmp_path)
    with pytest.raises(
        TypeError, match="path must be a str or PathLike, got int; pass"
    ):
        made(record(1)).report(3)


def test_a_full_disk_leaves_the_old_page(tmp_path, monkeypatch):
    before = page(made(record(1)), tmp_path)

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"must be written whole, got No space left .*room"
    ):
        made(record(1), record(2)).report(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


# ---- in a browser


def widths(text, folder, width):
    """Returns how wide a page of this width is in a browser, its tables unfolded."""
    text = text.replace("<details>", "<details open>")
    (folder / "frame.html").write_text(
        f'<iframe style="border:0;width:{width}px;height:900px" '
        f'srcdoc="{html.escape(text)}"></iframe><script>onload = () => '
        "{document.body.textContent = 'width ' + frames[0].document.documentElement"
        ".scrollWidth}</script>",
        encoding="utf-8",
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
    profile = f"--user-data-dir={folder / 'profile'}"
    address = (folder / "frame.html").as_uri()
    try:
        ran = subprocess.run(
            [CHROMIUM, *options, profile, "--dump-dom", address],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the browser does not start here")
    found = re.search(r"width (\d+)", ran.stdout)
    if ran.returncode or found is None:
        pytest.skip(f"the browser does not run here: {ran.stderr[-200:]}")
    return int(found[1])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(width, released, tmp_path):
    for history in (released, hostile(), long_run()):
        assert widths(page(history, tmp_path), tmp_path, width) <= width
    wide = '<div style="width:1500px">.</div>'  # the test would see it
    assert widths(wide, tmp_path, width) > width
