"""A run as one page for a privacy officer: HTML that loads nothing and runs nothing.

What is on it is what the history holds. Of a released run that is public; a
simulation's page is as private as its data, and says so in every window and on every
printed sheet.
"""

import contextlib
import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxfed import _check as check
from jaxfed.engine import _report_sections as sections
from jaxfed.engine import _report_words as words
from jaxfed.engine._report_html import Html, definitions, element, joined, prose
from jaxfed.engine._report_style import SIMULATION_STYLE, STYLE
from jaxfed.privacy._statement import Statement

if TYPE_CHECKING:
    from jaxfed.engine._history import History

_PACKAGES = ("jax", "numpy", "dp-accounting")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # nothing can be loaded


def write(history: "History", claim: Statement, path: Any, title: str) -> None:
    """Writes the page; the old file or the new one is there, never a part.

    Args:
        history: what to report on.
        claim: its guarantee.
        path: where to.
        title: of the page.

    Raises:
        OSError: it could not be written.
    """
    check.instance((str, os.PathLike), 'pass for example "report.html"', path=path)
    check.instance(str, 'pass for example title="Model 3"', title=title)
    check.name('pass for example title="Model 3"', title=title)
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"path must be in a folder that exists, got {str(path)!r}; make the folder "
            "first, or choose another."
        )
    if path.is_dir():
        raise IsADirectoryError(
            f'path must name a file, got the folder {str(path)!r}; add "report.html".'
        )
    text = page(history, claim, title)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise OSError(
            error.errno,
            f"the report must be written whole, got {error.strerror} at {str(path)!r}; "
            "nothing was changed: make room, or choose another folder",
        ) from error


def page(history: "History", claim: Statement, title: str) -> str:
    """Returns the page as text."""
    guarantee = words.guarantee_of(history, claim)
    is_simulation = not history.private
    style = STYLE + (SIMULATION_STYLE if is_simulation else "")
    shown = f"Simulation, not for release: {title}" if is_simulation else title
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", shown),
        element("style", Html(style)),
    )
    counter = sections.Numbers()
    main = element(
        "main",
        _key_numbers(history, guarantee),
        sections.guarantee(history, claim),
        sections.budget(history, claim, guarantee, counter),
        sections.quality(history, counter),
        sections.released(history),
        sections.ledger(history),
        _made(history),
    )
    header = _header(history, guarantee, title)
    banner = _banner(history) if is_simulation else None
    inside = element("div", header, main, class_="page")
    body = element("body", banner, inside)
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def _banner(history: "History") -> Html:
    strip = "Simulation: nothing on this page may be released"
    epsilon = "Every epsilon is as it would be in a real run; nothing was paid."
    if history.hypothetical:
        strip = "Hypothetical simulation: nothing on this page may be released"
        epsilon = (
            "Every epsilon is HYPOTHETICAL: it belongs to a run with a larger cohort "
            "that nobody has made, not to this one."
        )
    why = (
        "Its noise comes from a seed, so that anybody can compute it again and take it "
        "off, and its values are exact facts about clients' data: keep this page as "
        f"confidential as these data. {epsilon}"
    )
    return joined(
        [
            element("div", element("p", strip), class_="alarm strip", role="note"),
            element("div", element("p", why), class_="alarm why"),
        ]
    )


def _header(history: "History", guarantee: words.Guarantee, title: str) -> Html:
    is_bad = words.is_over(guarantee) or not history.private
    plain = words.in_plain_words(history, guarantee)
    return element(
        "header",
        element(
            "p",
            words.kind(history, guarantee),
            class_="kind bad" if is_bad else "kind",
        ),
        element("h1", title),
        element("p", prose(words.verdict(history, guarantee)), class_="verdict"),
        None if plain is None else element("p", plain, class_="lead"),
    )


def _key_numbers(history: "History", guarantee: words.Guarantee) -> Html:
    spent, of = "Epsilon spent", None
    if guarantee.budget is not None:
        of = f"of a budget of {words.budget_words(guarantee.budget)}"
    if not history.private:
        spent, of = "Epsilon", "as it would be"
    if history.hypothetical:
        spent = "Hypothetical epsilon"
    who = "Protects" if history.private else "Would protect"
    unit, relation = guarantee.unit, guarantee.relation
    rounds = len(history.rounds)
    models = rounds + words.repeats(history)
    done = "released" if history.private else "simulated"
    delta = guarantee.delta
    return definitions(
        [
            (spent, _fact(guarantee.spent, of)),
            ("Delta", _fact(words.delta_words(delta), words.chance_words(delta))),
            (who, _fact(words.unit_words(unit), words.relation_words(relation))),
            (
                "Rounds",
                _fact(f"{rounds:,}", f"{words.counted(models, 'model')} {done}"),
            ),
        ],
        class_="facts",
    )


def _fact(large: str, small: str | None) -> Html:
    return joined([large, None if small is None else element("small", small)])


def _made(history: "History") -> Html:
    versions = [(name, _version(name)) for name in ("jaxfed", *_PACKAGES)]
    versions.append(("Python", platform.python_version()))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return sections.section(
        "How it was made",
        element("code", history.algorithm, class_="printed"),
        definitions(
            [
                (
                    "Versions",
                    ", ".join(f"{name} {version}" for name, version in versions),
                ),
                ("Page written", f"{today}, with these versions"),
            ],
            class_="terms",
        ),
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"
