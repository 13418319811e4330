"""Charts of a report: inline SVG, with a text alternative and a table of values.

Positions are percentages, so that a chart is as wide as there is room while its text
keeps its size.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxfed.engine._report_html import Html, element, joined

_MARKED = 30  # so many points at most are drawn one by one
_BUCKETS = 240  # of which a longer curve keeps the lowest and the highest point
_ROWS = 50  # of a table
_MOST = 1e300  # larger values are drawn there, lest their differences overflow
_LEAST = 1e-300  # smaller ones have too few digits to divide
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LETTER = 7  # pixels of one letter of a label, about


class Curve(NamedTuple):
    """What one chart shows."""

    name: str
    rounds: np.ndarray
    values: np.ndarray
    last_round: int
    """Where the axis of rounds ends, the same in all charts of a report."""
    words: Callable[[float], str]
    """Writes a value."""
    limit: tuple[str, float] | None = None
    """A line to stay below: its name and its value."""
    from_zero: bool = False
    height: int = 132


def chart(curve: Curve, number: int) -> Html:
    """Returns a figure: a caption, the curve, and the values in a folded table.

    Args:
        curve: what to draw.
        number: another one for each chart of a page; ids are made of it.
    """
    first, last = curve.words(curve.values[0]), curve.words(curve.values[-1])
    span = joined([first, Html(" &rarr; "), last]) if len(curve.values) > 1 else first
    caption = element(
        "figcaption",
        element("span", curve.name, class_="name"),
        " ",
        element("span", span, class_="span"),
    )
    return element("figure", caption, _picture(curve, number), _table(curve))


def bar(share: float, words: str) -> Html:
    """Returns how much of a whole is used, as a bar."""
    width = f"{100 * min(max(share, 0.0), 1.0):.2f}%"
    return element(
        "svg",
        element("rect", class_="track", width="100%", height="100%", rx=3),
        element("rect", class_="fill", width=width, height="100%", rx=3),
        class_="bar",
        role="img",
        aria_label=words,
        height=16,
    )


class _Scale(NamedTuple):
    """From values to percentages of the plot."""

    low: float
    high: float
    ticks: list[float]

    def at(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)


def _picture(curve: Curve, number: int) -> Html:
    values = np.clip(curve.values, -_MOST, _MOST)
    values = np.where(np.isfinite(curve.values), values, np.nan)
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return element("p", "No finite value to draw.", class_="empty")
    limit = [] if curve.limit is None else [min(curve.limit[1], _MOST)]
    seen = [*limit, known.min(), known.max(), *([0.0] if curve.from_zero else [])]
    down = _scale(float(min(seen)), float(max(seen)))
    across = _across(curve.last_round)
    points = [
        (across.at(float(r)), 100 - down.at(float(v)))
        for r, v in zip(*_thinned(curve.rounds, values), strict=True)
    ]
    labels = [f"{tick:.8g}" for tick in down.ticks]
    margin = 10 + _LETTER * max(map(len, labels))
    svg = element(
        "svg",
        element("title", f"{curve.name} by round", id=f"chart-{number}-title"),
        element("desc", _in_words(curve, known), id=f"chart-{number}-desc"),
        *(
            joined([_line(100 - down.at(tick)), _left(label, 100 - down.at(tick))])
            for tick, label in zip(down.ticks, labels, strict=True)
        ),
        *_below(across),
        _limit(curve, down),
        _path(points),
        *_dots(points, all_of_them=len(curve.rounds) <= _MARKED),
        role="img",
        aria_labelledby=f"chart-{number}-title chart-{number}-desc",
        height=curve.height,
    )
    return element("div", svg, class_="plot", style=f"padding-left:{margin}px")


def _in_words(curve: Curve, known: np.ndarray) -> str:
    words = curve.words
    missing = len(curve.values) - len(known)
    return (
        f"{len(curve.values):,} values in rounds {curve.rounds[0]:,} to "
        f"{curve.rounds[-1]:,}: first {words(curve.values[0])}, last "
        f"{words(curve.values[-1])}, lowest {words(known.min())}, highest "
        f"{words(known.max())}"
        + (f"; {missing:,} are not finite" if missing else "")
        + ("" if curve.limit is None else f"; {curve.limit[0]}")
        + "."
    )


def _line(y: float, kind: str = "grid") -> Html:
    return element(
        "line", class_=kind, x1="0%", x2="100%", y1=_percent(y), y2=_percent(y)
    )


def _left(label: str, y: float) -> Html:
    return element("text", label, class_="tick", x=-8, y=_percent(y), dy="0.35em")


def _below(across: _Scale) -> list[Html]:
    """Returns the labels of the rounds; the outer ones stay inside the plot."""
    labels = []
    for tick in across.ticks:
        x = across.at(tick)
        anchor = "start" if x < 1 else "end" if x > 99 else "middle"
        place = {"x": _percent(x), "y": "100%", "dy": "1.5em", "text_anchor": anchor}
        labels.append(element("text", f"{tick:,.0f}", **place))
    axis = {"x": "50%", "y": "100%", "dy": "2.75em", "text_anchor": "middle"}
    return [*labels, element("text", "round", **axis)]


def _limit(curve: Curve, down: _Scale) -> Html | None:
    if curve.limit is None:
        return None
    name, value = curve.limit
    y = 100 - down.at(min(value, _MOST))
    label = element("text", name, class_="limit", x=6, y=_percent(y), dy=-6)
    return joined([_line(y, "limit"), label])


def _path(points: list[tuple[float, float]]) -> Html:
    """Returns the line; it has gaps where values are not finite."""
    parts, is_drawing = [], False
    for x, y in points:
        if math.isnan(y):
            is_drawing = False
            continue
        # no length, but round ends: a point between two gaps is a dot
        parts.append(f"L{x:.2f} {y:.2f}" if is_drawing else f"M{x:.2f} {y:.2f}h0")
        is_drawing = True
    path = element("path", class_="curve", d="".join(parts))
    box = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}
    return element("svg", path, width="100%", height="100%", **box)


def _dots(points: list[tuple[float, float]], *, all_of_them: bool) -> list[Html]:
    known = [point for point in points if not math.isnan(point[1])]
    return [
        element("circle", class_="dot", cx=_percent(x), cy=_percent(y), r=2.5)
        for x, y in (known if all_of_them else known[-1:])
    ]


def _table(curve: Curve) -> Html:
    count = len(curve.rounds)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _ROWS)).round().astype(int))
    some = f"{len(chosen)} of {count:,} values" if len(chosen) < count else "Values"
    head = element(
        "tr", *(element("th", n, scope="col") for n in ("Round", curve.name))
    )
    rows = (
        element(
            "tr",
            element("th", f"{curve.rounds[i]:,}", scope="row"),
            element("td", curve.words(curve.values[i])),
        )
        for i in chosen
    )
    summary = element("summary", f"{some} of {curve.name}")
    table = element("table", element("thead", head), element("tbody", *rows))
    return element("details", summary, table)


def _thinned(rounds: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the ends and, of every stretch of rounds, the lowest and the highest."""
    if len(rounds) <= 2 * _BUCKETS:
        return rounds, values
    kept = {0, len(rounds) - 1}
    for part in np.array_split(np.arange(len(rounds)), _BUCKETS):
        known = part[np.isfinite(values[part])]
        if len(known) < len(part):
            kept.add(int(part[np.isnan(values[part])][0]))  # a gap stays one
        if len(known):
            kept |= {int(known[values[known].argmin()])}
            kept |= {int(known[values[known].argmax()])}
    chosen = sorted(kept)
    return rounds[chosen], values[chosen]


def _across(last_round: int) -> _Scale:
    """Returns an axis on which the first and the last round have their number."""
    if last_round <= 1:
        return _Scale(0.5, 1.5, [1.0])
    parts = 4 if last_round < 1000 else 2  # their numbers are long
    step = 1 if last_round <= 6 else math.ceil(_step(last_round / parts))
    inner = [
        float(tick)
        for tick in range(step, last_round, step)
        if min(tick - 1, last_round - tick) >= 0.6 * step
    ]
    return _Scale(1.0, float(last_round), [1.0, *inner, float(last_round)])


def _scale(low: float, high: float) -> _Scale:
    """Returns an axis that begins and ends with a tick; three to six of them."""
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, _LEAST):  # one value, in the middle
        pad = size / 2 if size > _LEAST else 1.0
        return _Scale(low - pad, high + pad, [low])
    step = _step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [step * index for index in range(first, last + 1)]
    return _Scale(ticks[0], ticks[-1], ticks)


def _step(least: float) -> float:
    """Returns the next round number."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * s for s in _STEPS if power * s >= least * (1 - 1e-9))


def _percent(value: float) -> str:
    return f"{value:.2f}%"
