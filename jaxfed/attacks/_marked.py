"""Who is hostile: a boolean array beside the examples."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.data import FederatedData

ATTACKER = "attacker"
"""The name of the array that `marked` adds: True in every row of a hostile client."""


def marked(data: FederatedData, *, attackers: Iterable[Any]) -> FederatedData:
    """Returns data that say which clients are hostile.

    Args:
        data: any; it stays as it is.
        attackers: ids of clients, as in `data.client_ids`; may be empty.

    Returns:
        The same data with one more array, `ATTACKER`, (num_examples,) bool, which the
        wrappers of this module read and hide from the loss.

    Raises:
        ValueError: there is no such client, or the data have such an array already.
        TypeError: an argument is of another kind.
    """
    hostile = rows_of(data, attackers)
    if ATTACKER in data.arrays:
        raise ValueError(
            f"data must have no array {ATTACKER!r} yet, got {sorted(data.arrays)}; "
            "mark the data as they were."
        )
    return with_array(data, ATTACKER, hostile)


def rows_of(data: FederatedData, clients: Iterable[Any]) -> np.ndarray:
    """Returns which examples belong to some clients, (num_examples,) bool."""
    check.instance(FederatedData, "make one with FederatedData.from_arrays", data=data)
    is_one = np.zeros(data.num_clients, bool)
    is_one[data._positions(clients)] = True
    return np.repeat(is_one, data.client_sizes)


def with_array(data: FederatedData, name: str, values: np.ndarray) -> FederatedData:
    """Returns data with one array added or replaced."""
    return FederatedData(
        arrays={**data.arrays, name: values},
        offsets=data.offsets,
        client_ids=data.client_ids,
        columns=data.columns,
    )
