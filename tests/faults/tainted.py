"""Runs a program on data that hold a canary, and looks for it in all that comes out.

`python -m tests.faults.tainted PROGRAM [ARGUMENTS]` runs a program with logging at
DEBUG in an empty folder. One number of every data set it makes is moved a little, to
one that is nowhere else; neither the digits nor the bytes of that number may be in what
is printed or logged, in an exception, or in any file that the program leaves.
"""

import dataclasses
import functools
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

_MOVED = 0.0003712737  # too little to change what an example asserts
_MAKERS = ("from_clients", "from_arrays")
# programs that have no floating-point data, in which nothing can be moved a little
_WITHOUT = {
    "04_scale",  # integers of 8 bits, drawn on the spot
    "06_choosing_a_budget",  # mechanisms alone
    "14_lora",  # symbols
}
_LIST = "JAXFED_TEST_CANARIES"  # names the file that lists them


def traces(canary: np.float32) -> list[bytes]:
    """Returns what a canary looks like in text and in memory."""
    words = [np.array(canary, kind).tobytes() for kind in ("<f4", ">f4", "<f8", ">f8")]
    fixed, scientific = f"{canary:.8f}"[:-1], f"{canary:.6e}".partition("e")[0]
    return [*words, fixed.encode(), scientific.encode()]


def tainted(data):
    """Returns data in which the first float of one example is a canary."""
    arrays, row = dict(data.arrays), data.offsets[data.num_clients // 2]
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            changed = np.array(array, np.float32)
            first = changed[row : row + 1].reshape(-1)
            first[0] += np.float32(_MOVED)
            arrays[name] = changed
            _note(first[0])
    return dataclasses.replace(data, arrays=arrays)


def canaries() -> list[np.float32]:
    """Returns the canaries of this process and of those it started."""
    text = Path(os.environ[_LIST]).read_text().split()
    return [np.frombuffer(bytes.fromhex(word), "<f4")[0] for word in text]


def _note(canary: np.float32) -> None:
    with Path(os.environ[_LIST]).open("a") as file:
        file.write(np.array(canary, "<f4").tobytes().hex() + "\n")


def infect():
    """Makes every data set of this process, and of those it starts, a tainted one."""
    import jaxfed as jf
    from jaxfed.data import FederatedData

    def wrapped(function):
        @functools.wraps(function)
        def make(*arguments, **options):
            return tainted(function(*arguments, **options))

        return make

    for name in ("rand_hie", "fed_heart"):
        setattr(jf.data, name, wrapped(getattr(jf.data, name)))
    for name in _MAKERS:
        original = getattr(FederatedData, name).__func__
        setattr(FederatedData, name, classmethod(wrapped(original)))
    start = subprocess.run

    def run_tainted(command, **options):
        if command[0] == sys.executable and command[1].endswith(".py"):
            inside = ["-m", "tests.faults.tainted", "--inside"]
            command = [command[0], *inside, *command[1:]]
        return start(command, **options)

    subprocess.run = run_tainted  # what the program starts is tainted too


def leaks(texts: dict[str, bytes]) -> list[str]:
    """Returns where a canary is: the names of the texts that hold one."""
    known = [trace for canary in set(canaries()) for trace in traces(canary)]
    return [name for name, text in texts.items() if any(t in text for t in known)]


def outputs(folder: Path) -> dict[str, bytes]:
    """Returns every file under a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run(program: str, *arguments: str) -> tuple[int, bytes, list[str]]:
    """Runs a program in a process of its own; returns code, output and leaks."""
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        folder = Path(name)
        os.environ[_LIST] = str(Path(other) / "canaries")
        Path(os.environ[_LIST]).touch()
        command = [sys.executable, "-m", "tests.faults.tainted", "--inside"]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, str(Path(program).resolve()), *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path, "TMPDIR": name},
            capture_output=True,
            check=False,
        )
        texts = outputs(folder) | {"stdout": done.stdout, "stderr": done.stderr}
        found = leaks(texts)
        if not canaries() and Path(program).stem not in _WITHOUT:
            found.append("nothing: no data set was made")
    shown = done.stdout if done.returncode == 0 else done.stdout + done.stderr[-4000:]
    return done.returncode, shown, found


def _inside(program: str, arguments: list[str]) -> None:
    import logging

    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    infect()
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        _inside(sys.argv[2], sys.argv[3:])
    else:
        code, shown, found = run(*sys.argv[1:])
        sys.stdout.buffer.write(shown)
        sys.exit(code or (f"the canary is in {', '.join(found)}" if found else 0))
