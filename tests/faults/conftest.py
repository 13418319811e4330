"""Where the tests of faults work, and on which Pythons they can."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.faults import vfs


@pytest.fixture(scope="session")
def shim():
    """SQLite's calls can be heard; skips where it is linked so that they cannot."""
    try:
        return vfs.shim()
    except vfs.Unavailable as error:
        pytest.skip(f"no file system can be put under SQLite here: {error}")


@pytest.fixture
def quick_path():
    """A folder in memory, where that is: syncs cost nothing there."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield made
    shutil.rmtree(made)
