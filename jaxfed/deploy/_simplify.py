"""Shorter programs that compute the same: nothing twice, nothing in vain."""

import json
from typing import Any

from jaxfed.vault._operations import TABLE

Equation = list[Any]


def simplified(program: dict[str, Any]) -> dict[str, Any]:
    """Returns a program without repeated and unused equations, numbered densely."""
    equations, outputs = _once(program["equations"], program["outputs"])
    equations = _needed(equations, outputs)
    return _numbered(
        {"inputs": program["inputs"], "outputs": outputs, "equations": equations}
    )


def _once(equations: list[Equation], outputs: list[int]) -> Any:
    """Removes equations that compute what was computed: backward passes repeat."""
    seen: dict[Any, list[int]] = {}
    same: dict[int, int] = {}
    kept = []
    for name, operands, results, attributes in equations:
        operands = [same.get(register, register) for register in operands]
        if name in TABLE or name == "constant":
            key = (name, tuple(operands), json.dumps(attributes, sort_keys=True))
            if key in seen:
                same.update(zip(results, seen[key], strict=True))
                continue
            seen[key] = results
        else:
            attributes = _with_inner(attributes)
        kept.append([name, operands, results, attributes])
    return kept, [same.get(register, register) for register in outputs]


def _with_inner(attributes: dict[str, Any]) -> dict[str, Any]:
    found = dict(attributes)
    if "body" in found:
        found["body"] = simplified(found["body"])
    if "branches" in found:
        found["branches"] = [simplified(branch) for branch in found["branches"]]
    return found


def _needed(equations: list[Equation], outputs: list[int]) -> list[Equation]:
    live, kept = set(outputs), []
    for equation in reversed(equations):
        if live.intersection(equation[2]):
            kept.append(equation)
            live.update(equation[1])
    return kept[::-1]


def _numbered(program: dict[str, Any]) -> dict[str, Any]:
    numbers: dict[int, int] = {}

    def number(registers: list[int]) -> list[int]:
        return [numbers.setdefault(register, len(numbers)) for register in registers]

    inputs = number(program["inputs"])
    equations = [
        [name, number(operands), number(results), attributes]
        for name, operands, results, attributes in program["equations"]
    ]
    return {
        "inputs": inputs,
        "outputs": number(program["outputs"]),
        "equations": equations,
    }
