"""Each peer's own virtual environment, made on the first run and kept outside.

PyTorch is installed first and then held at its version, so that no peer replaces it.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys

TORCH = "torch==2.13.0"
JAX = "jax==0.10.2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """What one virtual environment holds."""

    name: str
    first: tuple[str, ...]
    """Installed first; what is pinned here stays at its version."""
    then: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Further words for pip at the second step."""


ENVIRONMENTS = {
    one.name: one
    for one in (
        Environment(name="pytorch", first=(TORCH, "numpy>=2")),
        Environment(name="pfl", first=(TORCH, "numpy>=2"), then=("pfl==0.6.0",)),
        Environment(
            name="flower",
            first=(TORCH, "numpy>=2"),
            then=("flwr[dp,simulation]==1.41.0",),
        ),
        Environment(name="fedjax", first=(JAX,), then=("fedjax==0.0.17",)),
        Environment(name="drjax", first=(JAX,), then=("drjax==0.2.1",)),
        # it asks for Python 3.12, and runs on 3.11
        Environment(
            name="blazefl",
            first=(TORCH, "numpy>=2"),
            then=("blazefl==2.0.3", "tqdm"),
            options=("--ignore-requires-python",),
        ),
    )
}


class InstallError(Exception):
    """A peer cannot be installed here; the message is pip's."""


def python_of(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Returns the interpreter of an environment, making it if it is not there.

    Args:
        name: one of `ENVIRONMENTS`.
        folder: where all environments are kept.
    """
    environment = ENVIRONMENTS[name]
    home = folder.expanduser() / name
    python = home / "bin" / "python"
    marker = home / "made.json"
    facts = dataclasses.asdict(environment)
    wanted = json.dumps(facts, sort_keys=True)
    if marker.exists() and marker.read_text("utf-8") == wanted:
        return python
    print(f"making the environment of {name} in {home}", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(home)])
    pip = [str(python), "-m", "pip", "install", "-q"]
    _run([*pip, *environment.first])
    if environment.then:
        held = home / "held.txt"
        held.write_text("\n".join(p for p in environment.first if "==" in p) + "\n")
        _run([*pip, "-c", str(held), *environment.options, *environment.then])
    marker.write_text(wanted, "utf-8")
    return python


def versions(python: pathlib.Path) -> dict[str, str]:
    """Returns package -> version of what was installed."""
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {one["name"]: one["version"] for one in json.loads(done.stdout)}


def _run(command: list[str]) -> None:
    """Runs a command; its last lines are the reason if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise InstallError(" ".join(lines[-3:])[-600:])
