"""Losses that know which labels their client has: FedLC and FedRS.

FedLC: Zhang et al. 2022, arXiv:2209.00189. FedRS: Li and Zhan 2021, "FedRS: Federated
Learning with Restricted Softmax for Label Distribution Non-IID Data", KDD. Where
clients have other labels each, plain cross-entropy lets a client push down the scores
of labels that it has never seen. These are losses for any local work, and any method.
They give no privacy by themselves.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfed import _check as check
from jaxfed.typing import LossFunction, Params

ScoresFunction = Callable[[Params, Any, jax.Array], jax.Array]
"""`(params, batch, key) -> scores` (rows, num_classes), before a softmax."""

_LEAST_COUNT = 1e-8  # of a label that the client has not: a margin of 100 * tau


def fedlc_loss(
    scores_fn: ScoresFunction,
    *,
    tau: float = 1.0,
    label: str = "y",
    counts: str = "label_counts",
) -> LossFunction:
    """Returns cross-entropy of scores less a margin, `tau * count**-0.25`: FedLC.

    The margin of a label is larger the rarer it is at the client; one that the client
    has not counts as 1e-8 examples. With even counts it is plain cross-entropy.

    Args:
        scores_fn: `(params, batch, key) -> scores` (rows, num_classes).
        tau: the weight of the margin, >= 0; 0 is plain cross-entropy.
        label: the data's array of labels, integers.
        counts: the data's array of `data.with_label_counts`.

    Raises:
        ValueError: `tau` is negative; or when traced, there is no such array.
        TypeError: `scores_fn` is no function.
    """
    weight = check.setting(check.non_negative, "pass for example tau=1.0", tau=tau)

    def calibrated(scores: jax.Array, count: jax.Array) -> jax.Array:
        margin = jnp.maximum(count, _LEAST_COUNT) ** -0.25
        return scores - jnp.asarray(weight, scores.dtype) * margin.astype(scores.dtype)

    return _cross_entropy(scores_fn, calibrated, label, counts)


def fedrs_loss(
    scores_fn: ScoresFunction,
    *,
    alpha: float = 0.5,
    label: str = "y",
    counts: str = "label_counts",
) -> LossFunction:
    """Returns cross-entropy with smaller scores of labels that are not there: FedRS.

    Scores of labels that the client has not are multiplied by `alpha`, so that they get
    that much less of the gradient.

    Args:
        scores_fn: `(params, batch, key) -> scores` (rows, num_classes).
        alpha: from 0 to 1; 1 is plain cross-entropy.
        label: the data's array of labels, integers.
        counts: the data's array of `data.with_label_counts`.

    Raises:
        ValueError: `alpha` is out of range; or when traced, there is no such array.
        TypeError: `scores_fn` is no function.
    """
    factor = check.setting(check.non_negative, "pass for example 0.5", alpha=alpha)
    if not check.is_traced(factor) and factor > 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}; pass for example 0.5.")

    def restricted(scores: jax.Array, count: jax.Array) -> jax.Array:
        return jnp.where(count > 0, scores, jnp.asarray(factor, scores.dtype) * scores)

    return _cross_entropy(scores_fn, restricted, label, counts)


def _cross_entropy(
    scores_fn: ScoresFunction,
    corrected: Callable[[jax.Array, jax.Array], jax.Array],
    label: str,
    counts: str,
) -> LossFunction:
    """Returns mean cross-entropy of corrected scores."""
    check.function("write (params, batch, key) -> scores", scores_fn=scores_fn)

    def loss_fn(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        if counts not in batch:
            raise ValueError(
                f"the data must have the array {counts!r}, got "
                f"{', '.join(sorted(batch))}; call data.with_label_counts."
            )
        scores, labels = scores_fn(params, batch, key), batch[label]
        count = batch[counts]
        if scores.shape != count.shape:
            raise ValueError(
                f"scores must be (rows, {count.shape[-1]}), one for each count in "
                f"{counts!r}, got {scores.shape} for {count.shape}; return a score for "
                "every class."
            )
        losses = optax.softmax_cross_entropy_with_integer_labels(
            corrected(scores, count), labels
        )
        return losses.mean(), {}

    return loss_fn
