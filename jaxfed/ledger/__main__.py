"""`python -m jaxfed.ledger show | verify | export`: a ledger from the command line.

Exit codes: 0, all is well; 1, the ledger is missing, changed or unreadable; 2, a wrong
argument.
"""

import argparse
import io
import sys
from pathlib import Path

from jaxfed.accounting import AccountingError
from jaxfed.ledger import _anchor, _export
from jaxfed.ledger._book import Book
from jaxfed.ledger._errors import LedgerError
from jaxfed.ledger._ledger import Ledger, Verified


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxfed.ledger", description="Look at a privacy ledger."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print budget, mechanisms and entries")
    show.add_argument("path", type=Path)
    group = show.add_mutually_exclusive_group()
    group.add_argument("--last", type=_count, default=10, help="how many entries")
    group.add_argument("--all", action="store_true", help="print every entry")
    verify = commands.add_parser("verify", help="check every entry")
    verify.add_argument("path", type=Path, help="a ledger, or what export wrote")
    verify.add_argument("--anchor", type=Path, help="the ledger's anchor")
    export = commands.add_parser("export", help="write all entries as JSON")
    export.add_argument("path", type=Path)
    export.add_argument("output", type=Path)
    given = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # names may have what a terminal has not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _COMMANDS[given.command](given)
        sys.stdout.flush()
    except (LedgerError, AccountingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {given.path}: {error.strerror or error}", file=sys.stderr)
        return 1
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as e:
        kind = type(e).__name__
        print(
            f"error: {given.path} must hold what a ledger holds, got other values "
            f"({kind}); they were not written by this library.",
            file=sys.stderr,
        )
        return 1
    return 0


def _show(given: argparse.Namespace) -> None:
    from rich.console import Console

    from jaxfed.ledger import _show as view

    book = _read(given.path)[0]
    last = None if given.all else given.last
    view.show(book, where=given.path.name, last=last, console=Console())


def _verify(given: argparse.Namespace) -> None:
    book, found = _read(given.path, given.anchor)
    book.check_budget()
    print(f"{given.path}: {found.entries} entries, each as it was written")
    if found.is_sealed:
        print("the whole file is as it was when it was closed")
    elif not _is_export(given.path):
        print("no seal to compare the whole file with: it is open, or was not closed")
    if found.is_authentic:
        print("each was written with the ledger's secret")
    else:
        print("who wrote them was not checked, since the secret is not here to read")
    print(f"head {found.head}")


def _export_(given: argparse.Namespace) -> None:
    with Ledger.open(given.path, read_only=True) as ledger:
        ledger.export(given.output)
        print(f"{given.output}: {ledger.num_entries} entries, head {ledger.head}")


def _read(path: Path, anchor: Path | None = None) -> tuple[Book, Verified]:
    """Reads a ledger, or what `export` wrote."""
    if _is_export(path):
        book = _export.read(path)
        _anchor.check(anchor, book.entries, path, book.terms, read_only=True)
        return book, Verified(len(book.entries), book.head, False, False)
    with Ledger.open(path, read_only=True, anchor=anchor) as ledger:
        return ledger._book, ledger.verify()


def _is_export(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError as error:
        raise LedgerError(
            f"{path} could not be read: {error.strerror}; let this process read it."
        ) from error


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be >= 0")
    return number


_COMMANDS = {"show": _show, "verify": _verify, "export": _export_}


if __name__ == "__main__":
    sys.exit(main())
