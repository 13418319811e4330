"""Kills processes that use a ledger, and looks at what they left; run as a script.

It forks, so that each victim begins within milliseconds: it has no threads, and JAX's
devices are not started. Prints what it found as JSON.
"""

import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import files, sessions
from tests.faults.calls import Calls, Dying


class Kills:
    """Counts kills, and everything that was wrong after one."""

    def __init__(self, root: Path, anchored: bool):
        self._root, self._anchored = root, anchored
        self.kills = self.most_extra = self.unfinished = self.releases = 0
        self.wrong: list[str] = []

    def folder(self, template: Path | None = None) -> Path:
        made = Path(tempfile.mkdtemp(dir=self._root))
        if template is not None:
            shutil.copytree(template, made, dirs_exist_ok=True)
        return made

    def template(self, name: str) -> tuple[Path, list[str]]:
        """Returns a folder in which a session ended well, and what it released."""
        folder = self.folder()
        released, was_killed = self.victim(name, folder, Calls())
        assert not was_killed
        return folder, released

    def victim(
        self, name: str, folder: Path, calls: Calls, seconds: float | None = None
    ) -> tuple[list[str], bool]:
        """Runs a session in a process; returns its releases, and if it was killed."""
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            _run(name, folder, calls, self._anchored, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            if seconds is not None:
                pipe.readline()  # it has begun
                time.sleep(seconds)
                os.kill(process, signal.SIGKILL)
            lines = pipe.read().decode().splitlines()
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status not in (0, -signal.SIGKILL):
            self.wrong.append(f"{name} ended with {status}: {lines[-1:]}")
        return [line for line in lines if line != "begun"], status == -signal.SIGKILL

    def look(self, folder: Path, released: list[str], kills: int, what: str) -> None:
        """Checks a copy of what is left, which stays as it is."""
        copy = self.folder(folder)
        found = sessions.Found(copy, released, self._anchored)
        wrong = list(found.wrong)
        if found.extra > kills:
            wrong.append(f"over-count: {found.extra} after {kills} kills")
        self.wrong += [f"{what}: {each}" for each in wrong]
        self.most_extra = max(self.most_extra, found.extra if kills == 1 else 0)
        self.unfinished += bool(found.error)
        self.releases += len(released)
        self.kills += 1
        shutil.rmtree(copy)

    def every(self, name: str, before: str | None, *, step: int = 1) -> None:
        """Kills at every change that a session makes to a file, before and after it."""
        start, already = (None, []) if before is None else self.template(before)
        for after in (False, True):
            at, was_killed = 1, True
            while was_killed:
                folder = self.folder(start)
                calls = Dying(at, after=after)
                released, was_killed = self.victim(name, folder, calls)
                if was_killed:
                    what = f"{name}, {'after' if after else 'before'} change {at}"
                    self.look(folder, already + released, 1, what)
                shutil.rmtree(folder)
                at += step

    def chain(self, kills: int, *, timed: bool, seed: int) -> None:
        """Kills process after process that goes on where the last one was killed."""
        chance = random.Random(seed)
        start, released = self.template("whole")
        folder = self.folder(start)
        for done in range(1, kills + 1):
            if timed:
                seconds, calls = chance.random() ** 2 * 0.02, Calls()
            else:
                after = chance.random() < 0.5
                seconds, calls = None, Dying(chance.randint(1, 40), after=after)
            new, was_killed = self.victim("endless", folder, calls, seconds)
            released += new
            assert was_killed
            self.look(folder, released, done, f"chain {seed}, kill {done}")
        shutil.rmtree(folder)

    def replays(self, kills: int, *, seed: int) -> None:
        """Kills processes that release the same rounds; the noise must be the same."""
        chance, bits = random.Random(seed), {}
        start, released = self.template("whole")
        folder = self.folder(start)
        while self.kills < kills:
            calls = Dying(chance.randint(1, 15), after=chance.random() < 0.5)
            for line in self.victim("replayed", folder, calls)[0]:
                index, key = json.loads(line)
                if bits.setdefault(index, key) != key:
                    self.wrong.append(f"kill {self.kills}: other noise for {index}")
                self.releases += 1
            self.kills += 1
        found = sessions.Found(folder, released, self._anchored)
        if found.wrong or found.extra != 3 or len(bits) != 3:
            self.wrong.append(f"{found.wrong}, {found.extra} spends for {len(bits)}")
        shutil.rmtree(folder)


def _run(name, folder, calls, anchored, pipe):
    """The victim; never returns."""
    status = 1
    try:
        _say(pipe, "begun")
        with files.reporting(calls, folder):
            sessions.SESSIONS[name](
                folder,
                lambda line: os.write(pipe, f"{line}\n".encode()),
                anchored=anchored,
            )
        status = 0
    except BaseException as error:
        _say(pipe, repr(error))
    finally:
        os._exit(status)


def _say(pipe: int, line: str) -> None:
    os.write(pipe, f"{line}\n".encode())


def main(what: str, anchored: bool, count: int) -> dict:
    files.vfs.shim()  # once, before forking
    gc.freeze()
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    kills = Kills(root, anchored)
    try:
        if what == "sample":
            kills.every("whole", None, step=4)
            kills.chain(count // 3, timed=False, seed=0)
            kills.chain(count // 3, timed=True, seed=1)
        elif what == "too_early":
            kills.every("too_early", "whole")
        elif what == "replays":
            kills.replays(count, seed=0)
        elif what == "every":
            kills.every("whole", None)
            kills.every("again", "whole")
            kills.every("crowded", None)
        else:
            for seed in range(count // 100):
                kills.chain(100, timed=what == "timed", seed=seed)
    finally:
        shutil.rmtree(root)
    public = ("kills", "most_extra", "unfinished", "releases", "wrong")
    return {name: getattr(kills, name) for name in public}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2] == "anchored", int(sys.argv[3]))))
