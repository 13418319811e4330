"""`python -m jaxfed.deploy`: run a server for vaults, and enrol its clients.

Exit codes: 0, all is well; 1, the run could not go on, and nothing was released that
was not paid for; 2, a wrong argument or configuration.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfed.deploy import _config
from jaxfed.deploy._config import ConfigError

if TYPE_CHECKING:
    from jaxfed.deploy._pki import Authority

_LOG = logging.getLogger("jaxfed")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        given.run(given)
    except (ConfigError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(given: argparse.Namespace) -> None:
    from jaxfed import tree
    from jaxfed.deploy._coordinator import Coordinator
    from jaxfed.deploy._status import StatusPage
    from jaxfed.deploy.transports import Http

    signal.signal(signal.SIGTERM, _stop)
    config = _config.read(given.config)
    built = config.build()()
    if not (isinstance(built, tuple) and len(built) in (3, 4)):
        raise ConfigError(
            "run.build must return algorithm, params and examples, or these and what "
            f"evaluates, got {type(built).__name__}."
        )
    algorithm, params, examples, *evaluate = built
    with Coordinator(
        algorithm,
        params=params,
        examples=examples,
        clients=config.clients(),
        rounds=config.run["rounds"],
        ledger=config.path("run", "ledger"),
        folder=config.path("run", "folder"),
        signing_key=config.signing_key(),
        pace=config.pace,
        name=config.run.get("name", "training"),
        evaluate=evaluate[0] if evaluate else None,
    ) as coordinator:
        files = ("certificate", "key", "authority", "revoked")
        http: dict[str, Any] = dict(config.http)
        http |= {name: config.path("http", name) for name in files if name in http}
        with (
            Http(coordinator.desk, **http) as server,
            StatusPage(coordinator, config.status.get("port", 0)) as page,
        ):
            _LOG.info("serving vaults at %s, status at %s", server.url, page.url)
            history = coordinator.run()
            coordinator.farewell(given.farewell)
    print(history)
    if "report" in config.run:
        history.report(config.path("run", "report"))
    if "output" in config.run:
        arrays: dict[str, Any] = {}
        tree.map_with_names(
            lambda name, leaf: arrays.update({name: np.asarray(leaf)}), history.params
        )
        np.savez(config.path("run", "output"), **arrays)


def _stop(number: int, frame: Any) -> None:
    """Ends the server in order: nothing is lost, and the ledger is closed."""
    del frame
    sys.exit(128 + number)


def _status(given: argparse.Namespace) -> None:
    from jaxfed.deploy._store import Store
    from jaxfed.ledger import Ledger

    config = _config.read(given.config)
    with Ledger.open(config.path("run", "ledger"), read_only=True) as ledger:
        print(ledger)
        name = config.run.get("name", "training")
        for one in ledger.mechanisms:
            if one.name == name:
                print(f"{one.rounds} of {one.cost.rounds} rounds released")
    folder = config.path("run", "folder")
    for one in Store(folder).attempts()[-10:] if folder.is_dir() else ():
        print(f"round {one.round + 1}, attempt {one.attempt + 1}: {one.state}")


def _pki(given: argparse.Namespace) -> None:
    authority = _authority(given.folder, may_be_new=True)
    authority.server(given.host)
    for client in given.clients:
        authority.enroll(client)
    print(f"{given.folder}: an authority, a server, {len(authority.clients)} clients")


def _enroll(given: argparse.Namespace) -> None:
    _authority(given.folder).enroll(given.client)
    print(f"{given.client}: give its owner {given.client}.pem, .key, and authority.pem")


def _renew(given: argparse.Namespace) -> None:
    _authority(given.folder).renew(given.client)
    print(f"{given.client}: give its owner {given.client}.pem and .key, both new")


def _revoke(given: argparse.Namespace) -> None:
    _authority(given.folder).revoke(given.client)
    print(f"{given.client}: refused from now on")


def _key(given: argparse.Namespace) -> None:
    from jaxfed.vault import _signature

    secret = _signature.new_key()
    try:
        number = os.open(given.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{given.path} must not be there yet; name another file, or move it away."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{given.path} could not be made: {error.strerror}."
        ) from None
    with open(number, "w", encoding="ascii") as file:
        file.write(secret.hex() + "\n")
    print(_signature.public_key(secret).hex())


def _authority(folder: Path, *, may_be_new: bool = False) -> "Authority":
    """Opens an authority; a misspelt folder is not one."""
    try:
        from jaxfed.deploy._pki import Authority
    except ImportError as error:
        raise ImportError(
            f"certificates need cryptography, got: {error}; pip install "
            "'jaxfed[server]'."
        ) from error
    if not may_be_new and not (folder / "authority.pem").exists():
        raise ConfigError(
            f"{folder} must be the folder of an authority; make one with `python -m "
            "jaxfed.deploy pki`."
        )
    return Authority(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxfed.deploy", description="Run a server for vaults."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    serve = commands.add_parser("serve", help="run all rounds with enrolled vaults")
    serve.set_defaults(run=_serve)
    serve.add_argument("config", type=Path, help="TOML file")
    serve.add_argument(
        "--farewell", type=float, default=30.0, help="seconds to tell clients the end"
    )
    status = commands.add_parser("status", help="print budget, rounds and attempts")
    status.set_defaults(run=_status)
    status.add_argument("config", type=Path, help="TOML file")
    pki = commands.add_parser("pki", help="make certificates for a test")
    pki.set_defaults(run=_pki)
    pki.add_argument("folder", type=Path)
    pki.add_argument("--host", nargs="+", default=["127.0.0.1", "localhost"])
    pki.add_argument("--clients", nargs="*", default=[])
    for name, run, words in (
        ("enroll", _enroll, "make a client's certificate"),
        ("renew", _renew, "revoke a client's certificate, and make another"),
        ("revoke", _revoke, "refuse a client's certificate from now on"),
    ):
        command = commands.add_parser(name, help=words)
        command.set_defaults(run=run)
        command.add_argument("folder", type=Path)
        command.add_argument("client")
    key = commands.add_parser("key", help="make a key to sign plans; print its public")
    key.set_defaults(run=_key)
    key.add_argument("path", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
