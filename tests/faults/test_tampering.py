"""Every change of a ledger at rest is refused.

A closed ledger is covered bit by bit by its seal. One whose process was killed has no
seal: there every change is refused, or leaves all entries as they were.
"""

import contextlib
import random
import shutil

import pytest

from jaxfed.ledger import LedgerError, _schema, _store
from tests.faults import sessions, tampering
from tests.faults.tampering import filled, killed, outcome


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("closed") / "ledger")


@pytest.fixture
def copy(closed, quick_path):
    return shutil.copytree(closed, quick_path / "copy")


def flipped(content, place, bit):
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def seal_misses(folder, bits):
    """Flips bits of a closed file; returns those that its seal does not notice."""
    path, missed = folder / "ledger", []
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for place, bit in bits:
            file.seek(place)
            file.write(bytes([content[place] ^ 1 << bit]))
            with contextlib.suppress(LedgerError):
                _store.checked_seal(path)
                missed.append((place, bit))
            file.seek(place)
            file.write(content[place : place + 1])
    return missed


def every_bit(size):
    return ((place, bit) for place in range(size) for bit in range(8))


def size_of(folder):
    return (folder / "ledger").stat().st_size


def test_flipped_bits_of_a_closed_ledger_are_refused(copy):
    """3,000 of them; `test_every_bit_of_a_closed_ledger_is_covered` flips all."""
    chance = random.Random(0)
    bits = [(chance.randrange(size_of(copy)), chance.randrange(8)) for _ in range(3000)]
    assert seal_misses(copy, bits) == []


@pytest.mark.slow
def test_every_bit_of_a_closed_ledger_is_covered(copy):
    assert seal_misses(copy, every_bit(size_of(copy))) == []


@pytest.mark.parametrize("read_only", [False, True])
def test_opening_asks_the_seal(copy, read_only):
    path, content = copy / "ledger", (copy / "ledger").read_bytes()
    for place in range(0, len(content), len(content) // 40):
        path.write_bytes(flipped(content, place, place % 8))
        with pytest.raises(LedgerError, match="must be as it was when it was closed"):
            sessions.opened(copy, False, read_only=read_only)


def test_every_bit_of_the_seal_counts(copy):
    path, content = copy / "ledger-seal", (copy / "ledger-seal").read_bytes()
    for place, bit in every_bit(len(content)):
        path.write_bytes(flipped(content, place, bit))
        with pytest.raises(LedgerError, match=r"must be as it was|must have the"):
            sessions.opened(copy, False, read_only=True)
    path.write_bytes(content)
    assert len(tampering.hashes(copy)) == 100


def test_every_digit_of_the_secret_counts(copy):
    path, text = copy / "ledger-secret", (copy / "ledger-secret").read_text()
    for place in range(64):
        other = f"{int(text[place], 16) ^ 1 << place % 4:x}"
        path.write_text(text[:place] + other + text[place + 1 :])
        with pytest.raises(LedgerError, match="not written with this ledger's secret"):
            sessions.opened(copy, False)


def bits_that_hide(folder, bits, read_only):
    """Flips bits of a ledger without a seal; returns those that lose an entry."""
    working = folder.with_name("working")
    content, missed = (folder / "ledger").read_bytes(), []
    entries = len(tampering.hashes(folder, read_only=True))
    for place, bit in bits:
        shutil.copytree(folder, working)
        (working / "ledger").write_bytes(flipped(content, place, bit))
        seen = outcome(working, read_only=read_only)
        if seen is not None and len(seen) != entries:
            missed.append((place, bit, len(seen)))
        shutil.rmtree(working)
    return missed


def structure(content):
    """Every bit that says where rows are: headers, and what names the tables."""
    for page in range(0, len(content), 4096):
        header = page + (100 if page == 0 else 0)
        yield from (
            (place, bit) for place in range(header, header + 8) for bit in range(8)
        )


def schema(content):
    """Every bit of the first page's records, where a table's root page is."""
    start = int.from_bytes(content[105:107], "big")
    return [(place, bit) for place in range(start, 4096) for bit in range(8)]


@pytest.mark.parametrize("charges", [0, 1, 2])
def test_bits_that_hide_rows_of_an_open_ledger_are_refused(closed, quick_path, charges):
    """The counts of cells in each page, for three lengths of the last page."""
    source = shutil.copytree(closed, quick_path / "source")
    with sessions.opened(source, False) as ledger:
        for _ in range(charges):
            ledger.charge("single")
    folder = killed(source, quick_path / "killed")
    content = (folder / "ledger").read_bytes()
    bits = list(structure(content))[-192:]
    assert bits_that_hide(folder, bits, read_only=True) == []
    assert bits_that_hide(folder, bits[-32:], read_only=False) == []


def test_bits_of_the_schema_are_refused_or_change_nothing(closed, quick_path):
    """One bit of the root page's number shows the first eleven entries only."""
    folder = killed(closed, quick_path / "killed")
    bits = schema((folder / "ledger").read_bytes())[::3]
    assert bits_that_hide(folder, bits, read_only=True) == []


def test_hidden_rows_would_be_noticed(closed, quick_path, monkeypatch):
    """The power: without the check of pages a single bit forgets 89 spends."""
    folder = killed(closed, quick_path / "killed")
    bits = schema((folder / "ledger").read_bytes())
    monkeypatch.setattr(_schema, "check_pages", lambda connection: None)
    missed = bits_that_hide(folder, bits[-4096:], read_only=True)
    assert min(entries for _, _, entries in missed) < 20


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True])
def test_flipped_bits_of_an_open_ledger_are_refused_or_idle(
    closed, quick_path, read_only
):
    folder, chance = killed(closed, quick_path / "killed"), random.Random(2)
    size = size_of(folder)
    bits = [(chance.randrange(size), chance.randrange(8)) for _ in range(3000)]
    content = (folder / "ledger").read_bytes()
    bits += [*structure(content), *schema(content)]
    assert bits_that_hide(folder, bits, read_only) == []


def test_a_flipped_log_is_an_older_copy_which_the_anchor_refuses(quick_path):
    """The log's own sums end it early: a whole prefix, as after a rollback."""
    source = filled(quick_path / "source", anchored=True)
    folder = killed(source, quick_path / "killed", charges=3)
    log, content = folder / "ledger-wal", (folder / "ledger-wal").read_bytes()
    whole = tampering.hashes(shutil.copytree(folder, quick_path / "whole"), True)
    assert len(whole) == 103
    for place in range(0, len(content), len(content) // 60):
        working = shutil.copytree(folder, quick_path / "working")
        (working / log.name).write_bytes(flipped(content, place, place % 8))
        seen = tampering.hashes(working, read_only=True)
        assert seen == whole[: len(seen)]
        if len(seen) < len(whole):
            with pytest.raises(LedgerError, match="older copy"):
                sessions.opened(working, True)
        shutil.rmtree(working)
