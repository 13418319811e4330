"""HTML as values: text is escaped unless it is `Html`, which only elements are."""

import html
import re
from typing import Any

_VOID = {"meta"}
_EXPONENT = re.compile(r"([\d.]+e[+-]\d+)")


class Html(str):
    """Markup. Everything else that becomes a child or an attribute is escaped."""

    __slots__ = ()


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Returns one element.

    Args:
        name: of the tag.
        *children: `Html` as it is, anything else as escaped text; None is left out.
        **attributes: `class_` is written `class`, `aria_label` is `aria-label`; None
            is left out.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{joined(children)}</{name}>")


def joined(children: Any) -> Html:
    """Returns several children as one."""
    return Html("".join(_markup(child) for child in children if child is not None))


def prose(text: str) -> Html:
    """Returns text whose numbers such as 1e-05 do not break at the end of a line."""
    parts = _EXPONENT.split(text)  # every other one is such a number
    whole = (element("span", p, class_="number") for p in parts[1::2])
    return joined(
        p for pair in zip(parts[::2], [*whole, ""], strict=True) for p in pair
    )


def items(texts: Any) -> Html:
    """Returns a list without order."""
    return element("ul", *(element("li", text) for text in texts))


def definitions(pairs: Any, **attributes: Any) -> Html:
    """Returns a list of names and what they mean."""
    rows = (
        element("div", element("dt", name), element("dd", meaning))
        for name, meaning in pairs
    )
    return element("dl", *rows, **attributes)


def _markup(child: Any) -> str:
    return child if isinstance(child, Html) else html.escape(str(child))
