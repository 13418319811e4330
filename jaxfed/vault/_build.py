"""One file that runs with any Python 3.9 or newer and NumPy."""

from __future__ import annotations

import zipfile
from importlib.resources import files
from pathlib import Path

_START = b"#!/usr/bin/env python3\n"
_MAIN = "from jaxfed.vault.__main__ import main\n\nraise SystemExit(main())\n"
_WHEN = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes


def build(target: Path) -> None:
    """Writes the vault as one executable archive; the same for the same sources.

    Raises:
        OSError: it cannot be written.
    """
    parts = {"__main__.py": _MAIN, "jaxfed/__init__.py": ""}
    for place in sorted(files("jaxfed.vault").iterdir(), key=lambda one: one.name):
        if place.name.endswith(".py"):
            parts[f"jaxfed/vault/{place.name}"] = place.read_text("utf-8")
    with open(target, "wb") as file:
        file.write(_START)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in parts.items():
                info = zipfile.ZipInfo(name, _WHEN)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, text, compresslevel=9)
    target.chmod(0o755)
