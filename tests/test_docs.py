"""What the documentation says is tested, is."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
NODE = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
FILE = re.compile(r"`(tests/[\w/]+\.py)`")


@functools.cache
def named(path):
    """The tests that a file defines, without importing it."""
    tree = ast.parse((ROOT / path).read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(names) == len(set(names)), f"{path} defines a function twice"
    return {name for name in names if name.startswith("test_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    text = page.read_text()
    missing = {
        f"{path}::{name}"
        for path, name in NODE.findall(text)
        if not (ROOT / path).is_file() or name not in named(path)
    }
    assert missing == set()
    assert all((ROOT / path).is_file() for path in FILE.findall(text))


def test_the_pages_of_claims_name_tests():
    """Or the test above would be silent for want of anything to check."""
    counts = {page.name: len(NODE.findall(page.read_text())) for page in PAGES}
    assert counts["guarantee.md"] > 50
    assert counts["evidence.md"] > 80


def test_every_defect_of_the_peers_is_on_the_page():
    found = set(re.findall(r"test_h\d\d_\w+", (ROOT / "docs/evidence.md").read_text()))
    assert found == named("tests/hazards/test_peers.py")
    assert {name[6:8] for name in found} == {f"{n:02}" for n in range(1, 20)}
