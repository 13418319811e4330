"""The vault's command line: join, audit, build.

Exit codes follow sysexits.h, for cron and systemd: 0 done, or nothing to do; 2 wrong
arguments; 65 the data cannot be read; 69 the server cannot be reached, try again; 73 a
file cannot be written; 75 another process has the record, try again; 76 what the server
sent is no plan or task; 77 the policy or the record refuses, or the
server does not want this client; 78 the policy is not one.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from pathlib import Path

from jaxfed.vault import _audit, _data, _policy, _signature
from jaxfed.vault._errors import (
    Busy,
    DataError,
    PlanError,
    PolicyError,
    Refused,
    Rejected,
    TooSoon,
    Unreachable,
    WireError,
)
from jaxfed.vault._http import Http, checked_url
from jaxfed.vault._plan import Plan
from jaxfed.vault._visit import LOG, Vault

_CODES: dict[type[Exception], int] = {
    DataError: 65,
    Unreachable: 69,
    PlanError: 76,
    WireError: 76,
    Busy: 75,
    Refused: 77,
    Rejected: 77,
    PolicyError: 78,
}
_LONGEST_PAUSE = 300.0
_LONGEST_WAIT = 1e7


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if options.debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        return int(options.run(options))
    except tuple(_CODES) as error:
        LOG.error("%s: %s", type(error).__name__, _audit.printable(str(error)))
        return next(code for kind, code in _CODES.items() if isinstance(error, kind))
    except KeyboardInterrupt:
        return 130


def _join(options: argparse.Namespace) -> int:
    policy = _policy.read(options.policy)
    if not policy.signers:
        raise PolicyError(
            f"{options.policy} must name signers, got none; add the public key that "
            "the server's operator published."
        )
    columns = None if options.columns is None else _data.columns_of(options.columns)
    read = _data.reader(options.data, columns=columns, table=options.table)
    server = Http(
        options.url,
        certificate=options.cert,
        key=options.key,
        authority=options.authority,
    )
    vault = Vault(read, policy, options.record)
    try:
        return _visits(vault, server, options)
    finally:
        server.close()
        vault.close()


def _visits(vault: Vault, server: Http, options: argparse.Namespace) -> int:
    """Visits until the run is over, `--once`, or for as long as a round is awaited."""
    pause, waited = 1.0, 0.0
    while True:
        try:
            outcome = vault.visit(server, seconds=options.wait)
            pause = 1.0
        except Unreachable as error:
            waited += pause
            if options.once or waited > options.patience:
                raise
            LOG.warning("%s Next try in %.0f s.", error, pause)
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
            continue
        except TooSoon as error:  # the owner asks for more distance than the plan
            if options.once:
                raise
            LOG.warning("%s Waiting for a later round.", error)
            time.sleep(options.wait)
            continue
        waited = 0.0
        if outcome.state == "ended":
            LOG.info("the run is over")
            return 0
        if options.once:
            return 0
        if outcome.state == "stale":
            time.sleep(1.0)


def _audited(options: argparse.Namespace) -> int:
    try:
        data = options.plan.read_bytes()
    except OSError as error:
        raise PlanError(f"a plan must be at {options.plan}: {error.strerror}") from None
    policy = (
        _policy.checked({}) if options.policy is None else _policy.read(options.policy)
    )
    if data.startswith(_signature.SEAL):
        start = len(_signature.SEAL)
        public = data[start : start + 32]
        data, _ = _signature.unsealed(data, [public])
        known = public.hex() in policy.signers
        print(f"signed by  {public.hex()} ({'trusted' if known else 'not trusted'})")
    else:
        print("signed by  nobody: vaults refuse it")
    plan = Plan(data)
    print(_audit.printable(_audit.words(plan, options.examples)))
    found = _policy.refusals(policy, plan, options.examples)
    print(_audit.printable(_audit.judged(found)))
    if found:
        return 77
    plan.check_itself()  # only what the policy lets run
    print("checked    this machine computes what JAX did")
    return 0


def _built(options: argparse.Namespace) -> int:
    from jaxfed.vault._build import build

    try:
        build(options.target)
    except OSError as error:
        LOG.error("%s cannot be written: %s", options.target, error.strerror)
        return 73
    return 0


def _url(text: str) -> str:
    try:
        checked_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _LONGEST_WAIT:
        raise argparse.ArgumentTypeError(
            f"must be seconds, >= 0 and at most {_LONGEST_WAIT:g}, got {text}"
        )
    return value


def _wait(text: str) -> float:
    value = _seconds(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be seconds, at least 1, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a number >= 1, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vault", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="log more; no values")
    commands = parser.add_subparsers(required=True, metavar="command")
    join = commands.add_parser("join", help="take part in a server's rounds")
    join.set_defaults(run=_join)
    join.add_argument("url", type=_url, help="https://host:port of the server")
    join.add_argument("--data", required=True, help="FILE, or file.py:function")
    join.add_argument("--policy", type=Path, required=True, help="JSON file")
    join.add_argument("--cert", type=Path, help="this client's certificate, PEM")
    join.add_argument("--key", type=Path, help="its private key, PEM")
    join.add_argument("--authority", type=Path, help="who signed the server's, PEM")
    join.add_argument("--record", type=Path, default=Path("vault-record"))
    join.add_argument("--columns", type=Path, help="JSON: columns of each array")
    join.add_argument("--table", help="of an SQLite file")
    join.add_argument("--once", action="store_true", help="one task at most")
    join.add_argument("--wait", type=_wait, default=20.0, help="seconds, for a task")
    join.add_argument(
        "--patience", type=_seconds, default=3600.0, help="seconds without a server"
    )
    audit = commands.add_parser("audit", help="say what a plan would do")
    audit.set_defaults(run=_audited)
    audit.add_argument("plan", type=Path)
    audit.add_argument("--policy", type=Path)
    audit.add_argument("--examples", type=_count, default=1000, help="of this client")
    build = commands.add_parser("build", help="write the vault as one file")
    build.set_defaults(run=_built)
    build.add_argument("target", type=Path, help="vault.pyz")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
