"""What a function computes, and what computes it: to know both again later."""

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.extend.core import Literal

# parts of names of primitives; the rules of custom_vmap are Python too
_OUTSIDE = (
    *("callback", "debug_print", "ffi_call", "outside_call", "infeed", "outfeed"),
    "custom_vmap",
)
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of Python objects: other ones every time


def digest_of(
    function: Callable[..., Any], *arguments: Any, released: bool = True
) -> bytes:
    """Returns the SHA-256 of the program that a function is traced to.

    Two functions that compute the same in the same steps share it; another constant,
    also one in an array that the function closes over, gives another one. It may tell
    about such arrays: publish it under a secret only.

    Args:
        function: of arrays; pure.
        *arguments: arrays, or their shapes and dtypes.
        released: whether what it computes is; a simulation may print.

    Raises:
        ValueError: it calls what is not in the program, such as Python.
    """
    found, program = hashlib.sha256(), jax.make_jaxpr(function)(*arguments)
    if released:
        _check_whole(program)
    for part in parts_of(program):
        found.update(part)
    return found.digest()


def parts_of(program: Any) -> Iterator[bytes]:
    """Yields the text of a closed program, then the values of all its constants."""
    yield text_of(program)
    yield from _constants_of(program)


def text_of(program: Any) -> bytes:
    """Returns the text of a program: its steps and scalars, and no array's values."""
    text = getattr(program, "jaxpr", program).pretty_print(use_color=False)
    return _ADDRESS.sub("", text).encode()


def machine() -> dict[str, str]:
    """Returns what decides on the last bits of a sum: processor, device, versions."""
    device = jax.devices()[0]
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "processor": _processor(),
        "xla_flags": hashlib.sha256(flags.encode()).hexdigest()[:12] if flags else "",
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "jaxfed": importlib.metadata.version("jaxfed"),
    }


def inner_programs(equation: Any) -> Iterator[Any]:
    """Yields the programs among an equation's parameters, closed or not."""
    for value in equation.params.values():
        for one in value if isinstance(value, list | tuple) else [value]:
            if hasattr(getattr(one, "jaxpr", one), "eqns"):
                yield one


def _check_whole(program: Any) -> None:
    """Refuses programs of which nobody knows what they compute, or print."""
    for equation in getattr(program, "jaxpr", program).eqns:
        name = equation.primitive.name
        if any(part in name for part in _OUTSIDE):
            raise ValueError(
                "what is released must be computed by JAX alone, got a call of the "
                f"host ({name}): what it computes could change unseen, and what it "
                "prints is private; take jax.debug.print, pure_callback and the like "
                "out of losses, models, metrics and optimizers."
            )
        for inner in inner_programs(equation):
            _check_whole(inner)


def _constants_of(program: Any) -> Iterator[bytes]:
    jaxpr = getattr(program, "jaxpr", program)
    for constant in getattr(program, "consts", ()):
        yield from _bytes_of(constant)
    for equation in jaxpr.eqns:
        yield from _literals_of(equation.invars)
        for inner in inner_programs(equation):
            yield from _constants_of(inner)
    yield from _literals_of(jaxpr.outvars)


def _literals_of(atoms: Any) -> Iterator[bytes]:
    """Yields arrays that stand in a program itself, whose text has scalars alone."""
    for atom in atoms:
        if isinstance(atom, Literal) and np.ndim(atom.val):
            yield from _bytes_of(atom.val)


def _bytes_of(constant: Any) -> Iterator[bytes]:
    if jax.dtypes.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    array = np.asarray(constant)
    yield f"{array.dtype}{array.shape}".encode()
    yield np.ascontiguousarray(array).tobytes()


def _processor() -> str:
    """Returns the name of the processor as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
