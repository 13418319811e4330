"""Data, mechanisms and the list of all queries, for the tests of queries."""

import jax.numpy as jnp
import numpy as np

import jaxfed as jf
from jaxfed.data import FederatedData
from jaxfed.queries import _release

KEY = jf.keys.simulated(7)
LOWER, UPPER = -2.0, 3.0


def clients(sizes, seed=0):
    """Ragged clients with `x` (n, 2) and a count `y`, some values beyond the bounds."""
    rng = np.random.default_rng(seed)
    total = int(np.sum(sizes))
    return FederatedData.from_arrays(
        {"x": rng.normal(0.5, 1.5, (total, 2)), "y": rng.integers(0, 4, total)},
        client=np.repeat(np.arange(len(sizes)), sizes),
    )


def replaced(data, client, value):
    """The data with one client's values replaced, past the checks of the container."""
    own = slice(int(data.offsets[client]), int(data.offsets[client + 1]))
    arrays = {name: np.array(array, np.float64) for name, array in data.arrays.items()}
    for array in arrays.values():
        array[own] = value
    changed = data.select(data.client_ids)
    object.__setattr__(changed, "arrays", arrays)
    return changed


def mechanism(population, *, norm=1.0, multiplier=1.0, rate=None, delta=None):
    sampling = jf.sampling.Full(population=population)
    if rate is not None:
        sampling = jf.sampling.Poisson(population=population, rate=rate)
    return jf.privacy.central(
        sampling=sampling,
        clipping=jf.clipping.Fixed(norm=norm),
        noise=jf.noise.Gaussian(multiplier=multiplier),
        delta=delta,
    )


def errors(params, rows):
    """Metrics that go wild where the data does."""
    gap = rows["x"][:, 0] - params
    return {"square": gap**2, "inverse": 1 / rows["x"][:, 1]}


def _evaluation(weighting):
    def ask(data, privacy, key):
        evaluate = jf.queries.evaluation(
            errors,
            data,
            bounds={"square": (0, 4), "inverse": (-2, 2)},
            privacy=privacy,
            looks=1,
            key=key,
            weighting=weighting,
        )
        evaluate(jnp.float32(0.5))
        return evaluate.answers[0]

    return ask


def _bounded(query, *arguments, **options):
    def ask(data, privacy, key):
        return query(
            data,
            "x",
            *arguments,
            lower=LOWER,
            upper=UPPER,
            privacy=privacy,
            key=key,
            **options,
        )

    return ask


def _counted(name, **options):
    def ask(data, privacy, key):
        return jf.queries.histogram(data, name, privacy=privacy, key=key, **options)

    return ask


# every query in both weightings: a new one needs lines here
QUERIES = {
    f"{name}_{weighting}": ask
    for weighting in ("examples", "clients")
    for name, ask in {
        "mean": _bounded(jf.queries.mean, weighting=weighting),
        "one_column": _bounded(jf.queries.mean, columns=1, weighting=weighting),
        "moments": _bounded(jf.queries.moments, weighting=weighting),
        "scaling": _bounded(jf.queries.scaling, weighting=weighting),
        "edges": _counted("x", edges=np.linspace(-2, 3, 11), weighting=weighting),
        "categories": _counted("y", categories=[0, 1, 2, 3], weighting=weighting),
        "quantile": _bounded(
            jf.queries.quantile, [0.2, 0.5], resolution=32, weighting=weighting
        ),
        "evaluation": _evaluation(weighting),
    }.items()
}


def recorded(ask, data, privacy, monkeypatch, key=KEY):
    """Returns the exact integer sum that a query releases, as Python integers."""
    seen = []

    def spy(mechanism, total, *, key):
        del mechanism, key
        seen.append([int(v) for v in np.asarray(total.update)])
        return np.zeros(total.update.shape, np.float32)

    with monkeypatch.context() as patch:
        patch.setattr(_release, "_release", spy)
        ask(data, privacy, key)
    (total,) = seen  # one release a query
    return total


def lattice(privacy, total):
    return privacy._joint(jnp.zeros(len(total), jnp.float32)).parts[0].lattice


def squared_distance(left, right):
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))
