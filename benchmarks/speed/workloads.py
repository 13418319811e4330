"""The same clients, sizes, cohorts and initial parameters for every framework.

NumPy only, because every peer's environment imports it. Values are random: what is
timed does not depend on them, and no data set has to be fetched.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

VOCABULARY, LENGTH, EMBEDDING, HIDDEN = 90, 80, 8, 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, its clients and how many of them make a round."""

    name: str
    model: str
    """`cnn`, `mlp` or `lstm`."""
    layers: tuple[int, ...]
    """Of an `mlp`: inputs, hidden units, classes."""
    example: tuple[int, ...]
    """Shape of one example."""
    classes: int
    batch_size: int
    population: int
    cohort: int
    mean_size: int
    spread: float
    """Standard deviation of the logarithm of the sizes."""
    smallest: int
    largest: int
    learning_rate: float
    clip: float
    """L2 norm: between a third and two thirds of the clients are above it."""


class Data(NamedTuple):
    """All clients' examples, one client after the other."""

    x: np.ndarray
    y: np.ndarray
    sizes: np.ndarray
    """(population,) examples of each client."""
    offsets: np.ndarray
    """(population + 1,) where each client starts."""

    def of(self, client: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns one client's examples, as views."""
        rows = slice(self.offsets[client], self.offsets[client + 1])
        return self.x[rows], self.y[rows]


_CNN = Workload(
    name="cnn-10",
    model="cnn",
    layers=(),
    example=(28, 28, 1),
    classes=62,
    batch_size=20,
    population=200,
    cohort=10,
    mean_size=100,
    spread=0.6,
    smallest=10,
    largest=500,
    learning_rate=0.05,
    clip=1.7,
)
_MLP = Workload(
    name="mlp-100",
    model="mlp",
    layers=(784, 200, 200, 62),
    example=(784,),
    classes=62,
    batch_size=20,
    population=500,
    cohort=100,
    mean_size=40,
    spread=0.35,
    smallest=20,
    largest=60,
    learning_rate=0.1,
    clip=0.4,
)
_SMALL = dataclasses.replace(
    _MLP,
    name="small-1000",
    layers=(64, 128, 10),
    example=(64,),
    classes=10,
    batch_size=10,
    population=10_000,
    cohort=1000,
    clip=0.28,
)
_LOGISTIC = dataclasses.replace(
    _MLP,
    name="logistic-1000",
    layers=(784, 62),
    population=1500,
    cohort=1000,
    clip=0.3,
)
_LSTM = Workload(
    name="lstm-10",
    model="lstm",
    layers=(),
    example=(LENGTH,),
    classes=VOCABULARY,
    batch_size=4,
    population=100,
    cohort=10,
    mean_size=60,
    spread=0.8,
    smallest=4,
    largest=300,
    learning_rate=0.5,
    clip=0.15,
)
WORKLOADS = {
    one.name: one
    for one in (
        _CNN,
        dataclasses.replace(_CNN, name="cnn-50", cohort=50),
        _MLP,
        _SMALL,
        dataclasses.replace(_SMALL, name="small-10000", cohort=10_000),
        _LOGISTIC,
        _LSTM,
    )
}


def make_data(workload: Workload) -> Data:
    """Returns the clients' examples; the same for workloads of the same clients."""
    generator = np.random.default_rng(0)
    sizes = _sizes(workload, generator)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    shape = (int(offsets[-1]), *workload.example)
    if workload.model == "lstm":
        text = generator.integers(0, VOCABULARY, (shape[0], LENGTH + 1), np.int32)
        return Data(
            np.ascontiguousarray(text[:, :-1]),
            np.ascontiguousarray(text[:, 1:]),
            sizes,
            offsets,
        )
    x = generator.random(shape, dtype=np.float32) - np.float32(0.5)
    y = generator.integers(0, workload.classes, shape[0], np.int32)
    return Data(x, y, sizes, offsets)


def _sizes(workload: Workload, generator: np.random.Generator) -> np.ndarray:
    """Returns log-normal sizes with the mean that they have before being cut."""
    location = np.log(workload.mean_size) - workload.spread**2 / 2
    sizes = np.exp(generator.normal(location, workload.spread, workload.population))
    clipped = np.clip(np.round(sizes), workload.smallest, workload.largest)
    return clipped.astype(np.int64)


def cohort(workload: Workload, number: int) -> np.ndarray:
    """Returns the (cohort,) distinct clients of round `number`."""
    generator = np.random.default_rng((1, number))
    return generator.choice(workload.population, workload.cohort, replace=False)


def expected_examples(workload: Workload, data: Data, number: int) -> int:
    """Returns how many examples one epoch of the round's clients has."""
    return int(data.sizes[cohort(workload, number)].sum())


def filled_examples(workload: Workload, data: Data, number: int) -> int:
    """Returns how many are processed where each last batch is filled up."""
    sizes = data.sizes[cohort(workload, number)]
    return int((-(-sizes // workload.batch_size)).sum() * workload.batch_size)


def initial_params(workload: Workload) -> dict[str, np.ndarray]:
    """Returns name -> array, kernels as (inputs, outputs) or (3, 3, inputs, outputs).

    A convolution's output is flattened as (height, width, channel). The gates of an
    LSTM are in the order input, forget, cell, output, with one bias for the two
    products of a layer.
    """
    generator = np.random.default_rng(2)
    shapes: dict[str, tuple[int, ...]] = {}
    if workload.model == "cnn":
        shapes |= {"conv0": (3, 3, 1, 32), "conv1": (3, 3, 32, 64)}
    if workload.model == "lstm":
        gates = 4 * HIDDEN
        shapes |= {"embedding": (VOCABULARY, EMBEDDING)}
        shapes |= {"input0": (EMBEDDING, gates), "hidden0": (HIDDEN, gates)}
        shapes |= {"input1": (HIDDEN, gates), "hidden1": (HIDDEN, gates)}
    dense = {"cnn": (9216, 128, workload.classes), "lstm": (HIDDEN, VOCABULARY)}
    sizes = dense.get(workload.model, workload.layers)
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        shapes[f"dense{index}"] = (inputs, outputs)
    params = {}
    for name, shape in shapes.items():
        scale = 0.1 if name == "embedding" else np.prod(shape[:-1]) ** -0.5
        if workload.model != "lstm":
            scale *= 2**0.5  # rectifiers halve the variance
        params[f"{name}/kernel"] = (
            scale * generator.standard_normal(shape, dtype=np.float32)
        ).astype(np.float32)
        if name != "embedding" and not name.startswith("hidden"):
            params[f"{name}/bias"] = np.zeros(shape[-1], np.float32)
    return params
