"""A task made here for several experiments: ten classes of one or two clusters.

The clusters lie in a few directions that all clients have in common, among many that
say nothing: what is worth sharing is where to look.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

CLASSES, FEATURES = 10, 40
_DIRECTIONS, _HIDDEN = 8, 32
_DISTANCE = 1.5  # of their centres: the standard deviation, in those of rows


def rows_of(count: int, seed: int, *, clusters: int = 2) -> dict[str, np.ndarray]:
    """Returns rows of one task: `x` (count, FEATURES) float32 and `y` (count,) int32.

    Each class has as many rows and as many clusters as any other; with one cluster
    a linear model knows all there is to know.
    """
    draw = np.random.default_rng(seed)
    centers = draw.normal(0, _DISTANCE, (CLASSES, clusters, _DIRECTIONS))
    directions = np.linalg.qr(draw.normal(size=(FEATURES, _DIRECTIONS)))[0].T
    y = np.arange(count, dtype=np.int32) % CLASSES
    x = centers[y, draw.integers(0, clusters, count)] @ directions
    x += draw.normal(size=(count, FEATURES))
    return {"x": x.astype(np.float32), "y": y}


def start(seed: int) -> dict[str, dict[str, jax.Array]]:
    """Returns parameters of the perceptron."""
    draw = np.random.default_rng(seed)

    def layer(inputs: int, outputs: int) -> dict[str, jax.Array]:
        w = draw.normal(0, inputs**-0.5, (inputs, outputs))
        return {"w": jnp.asarray(w, jnp.float32), "b": jnp.zeros(outputs)}

    return {"body": layer(FEATURES, _HIDDEN), "head": layer(_HIDDEN, CLASSES)}


def predict(params: Any, rows: Any) -> jax.Array:
    """Returns scores, (rows, CLASSES)."""
    body, head = params["body"], params["head"]
    hidden = jax.nn.relu(rows["x"] @ body["w"] + body["b"][None])
    return hidden @ head["w"] + head["b"][None]


def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    """Cross-entropy."""
    del key
    losses = optax.softmax_cross_entropy_with_integer_labels(
        predict(params, batch), batch["y"]
    )
    return losses.mean(), {}
