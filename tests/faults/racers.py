"""Two processes after one ledger, again and again; run as a script."""

import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from jaxfed.ledger import LedgerError, _files
from tests.faults import sessions


class Racer:
    """A process that opens the ledger when it is told to."""

    def __init__(self, folder: Path):
        self._told, tell = os.pipe()
        hear, self._said = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                self._run(folder)
            finally:
                os._exit(1)
        os.close(self._told)
        os.close(self._said)
        self._tell, self._hear = tell, hear

    def tell(self) -> None:
        os.write(self._tell, b"!")

    def heard(self) -> bytes:
        return os.read(self._hear, 1)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self._tell)
        os.close(self._hear)

    def _run(self, folder: Path) -> None:
        """Says W for won, L for lost, then C for charged or closed."""
        while os.read(self._told, 1):
            ledger = None
            try:
                ledger = sessions.opened(folder, False)
                os.write(self._said, b"W")
            except LedgerError as error:
                is_right = "must have one writer" in str(error)
                os.write(self._said, b"L" if is_right else b"?")
            os.read(self._told, 1)
            if ledger is not None:
                with contextlib.suppress(LedgerError), ledger:
                    ledger.charge("single")
            os.write(self._said, b"C")


def raced(folder: Path, races: int) -> dict:
    """Returns how often one won, and what else there was."""
    racers, outcomes, takeovers = [Racer(folder), Racer(folder)], [], 0
    for number in range(1, races + 1):
        for racer in racers if number % 2 else racers[::-1]:
            racer.tell()
        said = [racer.heard() for racer in racers]
        outcomes.append(b"".join(sorted(said)).decode())
        if number % 20 == 0 and b"W" in said:  # the winner dies with the ledger open
            place = said.index(b"W")
            racers[place].end()
            with sessions.opened(folder, False) as ledger:
                ledger.charge("single")
            takeovers += 1
            racers[place] = Racer(folder)
            rest = [racers[1 - place]]
        else:
            rest = racers
        for racer in rest:
            racer.tell()
        for racer in rest:
            racer.heard()
    for racer in racers:
        racer.end()
    return {"outcomes": outcomes, "takeovers": takeovers}


def read_beside(folder: Path, reads: int) -> dict:
    """Reads while another process opens, charges and closes without a pause."""
    writer = os.fork()
    if writer == 0:
        with contextlib.suppress(BaseException):
            sessions.endless(folder, lambda line: None, anchored=False)
        os._exit(1)
    seen, wrong = [], []
    for _ in range(reads):
        try:
            with sessions.opened(folder, False, read_only=True) as ledger:
                ledger.verify()
                seen.append([entry.hash for entry in ledger.history()])
        except LedgerError as error:
            wrong.append(str(error))
    still = os.waitpid(writer, os.WNOHANG) == (0, 0)
    os.kill(writer, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(writer, 0)
    with sessions.opened(folder, False) as ledger:
        whole = [entry.hash for entry in ledger.history()]
    wrong += [f"no prefix: {len(s)}" for s in seen if whole[: len(s)] != s]
    lengths = [len(each) for each in seen]
    if lengths != sorted(lengths):
        wrong.append("a later reader saw less")
    return {"wrong": wrong, "lengths": sorted(set(lengths)), "still": still}


def closed_by_a_child(folder: Path) -> dict:
    """A child charges and closes what its parent opened, who then goes on."""
    refused = False
    with sessions.opened(folder, False) as ledger:
        child = os.fork()
        if child == 0:
            try:
                ledger.charge("single")
            except LedgerError as error:
                refused = "another process" in str(error)
            ledger.close()
            os._exit(refused)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sealed = (folder / "ledger-seal").exists()
        ledger.charge("single")
        entries = ledger.verify().entries
    return {"sealed": sealed, "refused": status == 1, "entries": entries}


def main(what: str, count: int) -> dict:
    if what == "unlocked":  # a seeded defect
        _files.Lock = lambda path, *, what: contextlib.nullcontext()
    gc.freeze()
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        sessions.whole(root, lambda line: None, anchored=False)
        with sessions.opened(root, False, read_only=True) as ledger:
            before = len(ledger.history())
        if what == "readers":
            return read_beside(root, count)
        if what == "child":
            return closed_by_a_child(root)
        found = raced(root, count)
        with sessions.opened(root, False) as ledger:
            found["charged"] = ledger.verify().entries - before
        return found
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
