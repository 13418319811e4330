"""Label flipping: hostile clients train on wrong labels.

Fang, Cao, Jia and Gong 2020, arXiv:1911.11815, the label flipping attack: a
label y becomes num_classes - 1 - y.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.attacks._marked import rows_of, with_array
from jaxfed.data import FederatedData


def label_flip(
    data: FederatedData,
    *,
    attackers: Iterable[Any],
    num_classes: int,
    label: str = "y",
) -> FederatedData:
    """Returns data in which every label y of hostile clients is `num_classes` - 1 - y.

    Nothing else is needed: these clients then do honest work on wrong labels.

    Args:
        data: any; it stays as it is.
        attackers: ids of clients, as in `data.client_ids`; may be empty.
        num_classes: labels are 0, ..., num_classes - 1.
        label: the array that holds them, of integers.

    Raises:
        ValueError: there is no such client or array, or a label is out of range.
        TypeError: labels are not integers, or an argument is of another kind.
    """
    remedy = "labels are 0, ..., num_classes - 1"
    classes = check.positive_integer(remedy, num_classes=num_classes)
    hostile = rows_of(data, attackers)
    check.one_of(data.arrays, label=label)
    labels = data.arrays[label]
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"the array {label!r} must hold integers, got {labels.dtype}; number the "
            "classes from 0."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels must be in [0, {classes}), got {labels.min()} to {labels.max()}; "
            "pass the number of classes."
        )
    flipped = (classes - 1 - labels.astype(np.int64)).astype(labels.dtype)
    hostile = hostile.reshape(-1, *[1] * (labels.ndim - 1))
    return with_array(data, label, np.where(hostile, flipped, labels))
