"""How often each label occurs at a client, beside each of its examples."""

import dataclasses

import numpy as np

from jaxfed import _check as check
from jaxfed.data._federated_data import FederatedData


def with_label_counts(
    data: FederatedData,
    *,
    num_classes: int,
    label: str = "y",
    name: str = "label_counts",
) -> FederatedData:
    """Returns data with an array of how often its client has each label.

    For losses that correct for them, such as `clients.fedlc_loss`. Call it last, on the
    rows that are trained on: what `where` takes out later is still counted. It needs
    `4 * num_classes` bytes per example.

    Args:
        data: whose array `label` holds integers from 0 to `num_classes` - 1.
        num_classes: how many labels there are.
        label: the array of labels.
        name: of the new array, (num_examples, num_classes) float32.

    Raises:
        ValueError: a label is no such integer, or there is an array `name` already.
    """
    check.instance(FederatedData, "pass FederatedData", data=data)
    check.positive_integer("pass how many labels there are", num_classes=num_classes)
    check.one_of(data.arrays, label=label)
    if name in data.arrays:
        raise ValueError(
            f"name must be new, got {name!r}, which the data have; pass another."
        )
    labels = data.arrays[label]
    remedy = f"give each example one integer from 0 to {num_classes - 1}"
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"array {label!r} must hold one integer per example, got {labels.dtype} of "
            f"shape {labels.shape}; {remedy}."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"array {label!r} must be in [0, {num_classes}), got {labels.min()} to "
            f"{labels.max()}; {remedy}."
        )
    owner = np.repeat(np.arange(data.num_clients), data.client_sizes)
    counts = np.zeros((data.num_clients, num_classes), np.float32)
    np.add.at(counts, (owner, labels), 1)
    return dataclasses.replace(data, arrays=dict(data.arrays) | {name: counts[owner]})
