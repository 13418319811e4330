"""The page about policies names every limit, with its default."""

from pathlib import Path

from jaxfed.vault import _policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy.md"


def test_every_limit_is_on_the_page_with_its_default():
    rows = {}
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| `"):
            name, default, _ = (part.strip() for part in line.strip("|").split("|"))
            rows[name.strip("`")] = default
    assert list(rows) == sorted(rows, key=list(rows).index)
    assert set(rows) == set(_policy.LIMITS)
    for name, (default, _) in _policy.LIMITS.items():
        shown = rows[name].replace("10^12", "1e12").replace("10^7", "1e7")
        if isinstance(default, list):
            known = {"signers": "none", "mechanisms": "all five"}
            assert shown == known.get(name, "all that plans have")
        else:
            assert float(shown) == float(default), name
