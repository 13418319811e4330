"""Federated averaging as slow NumPy float64 loops, close to the paper.

McMahan et al. 2017, arXiv:1602.05629, algorithm 1, for binary logistic regression
with a bias. Momentum is Sutskever's, as in `optax.sgd`: v <- m v + g, w <- w - lr v.
"""

import numpy as np


def gradient(weights, x, y):
    """Returns the gradient of the mean logistic loss over the rows of x."""
    total = np.zeros_like(weights)
    for row, label in zip(x, y, strict=True):
        z = row @ weights[:-1] + weights[-1]
        error = 1.0 / (1.0 + np.exp(-z)) - label
        total += error * np.append(row, 1.0)
    return total / len(x)


def client_update(weights, batches, *, learning_rate, momentum=0.0):
    """Returns new minus old weights after one pass over a list of (x, y) batches."""
    new, velocity = weights.copy(), np.zeros_like(weights)
    for x, y in batches:
        velocity = momentum * velocity + gradient(new, x, y)
        new = new - learning_rate * velocity
    return new - weights


def weighted_mean(updates, weights):
    """Returns the mean of updates, each counting by its weight."""
    total = np.zeros_like(updates[0])
    for update, weight in zip(updates, weights, strict=True):
        total += weight * update
    return total / sum(weights)


def clipped_mean(updates, clip, expected_clients):
    """Returns the sum of updates clipped to L2 norm `clip`, over a constant."""
    total = np.zeros_like(updates[0])
    for update in updates:
        total += update * min(1.0, clip / max(np.linalg.norm(update), 1e-30))
    return total / expected_clients


def batches_of(data, cohort):
    """Returns {client number: [(x, y), ...]} of a plan, read off its row numbers."""
    x = np.asarray(data.arrays["x"], np.float64)
    y = np.asarray(data.arrays["y"], np.float64)
    plan = {}
    for chunk in range(cohort.clients.shape[0]):
        for lane in range(cohort.clients.shape[1]):
            if not cohort.is_real[chunk, lane]:
                continue
            first = int(cohort.first_step[chunk, lane])
            lines = range(first, first + int(cohort.num_steps[chunk, lane]))
            rows = [np.asarray(cohort.rows[line]) for line in lines]
            kept = [r[r >= 0] for r in rows]
            plan[int(cohort.clients[chunk, lane])] = [(x[r], y[r]) for r in kept]
    return plan
