"""The one way out: per-client vectors, clipped jointly, summed, noised, released once.

A query is a vector that every example adds to its client's part, arranged so that one
example adds at most 1 in L2 norm. The clip norm of the privacy object is therefore in
**examples**: a client with no more examples than that is never clipped, and one with
more is scaled down to that norm, all parts of its vector by the same factor.

The vector goes through `privacy.encode` and `privacy.release`, the path of model
updates: integers of bounded norm, an exact sum, discrete Gaussian noise. So a query
costs what `privacy.event(rounds=1)` says, whatever it asks, and nobody can pass a
sensitivity.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfed import _check as check
from jaxfed import keys
from jaxfed.clipping import Fixed
from jaxfed.data import FederatedData
from jaxfed.keys import Purpose
from jaxfed.privacy import Central
from jaxfed.queries import _paid
from jaxfed.queries._paid import Paid, Source
from jaxfed.typing import Batching, ClientResult, LocalWork, PyTree

Contributions = Callable[["Clients"], np.ndarray]
"""`(clients) -> (count, dimension)` float64, a client's vector in each row. Private;
a client whose examples are not finite gives NaN, which counts as zero."""

WEIGHTINGS = ("examples", "clients")
# Vectors are this much shorter than they could be, so that one of exactly the clip
# norm is whole after float32 rounding and the lattice's headroom of 2**-11.
UNIT = 1.0 - 2.0**-10
_BLOCK_SCALARS = 2**21  # encoded at once, which bounds memory
_LEAF_BITS = 2**30 - 1


class Clients(NamedTuple):
    """Some clients and where their examples are. Private."""

    rows: Any
    """Index of their examples, client after client: a slice or an int64 array."""
    starts: np.ndarray
    """(count,) int64: where each client's examples start among these."""
    sizes: np.ndarray
    """(count,) int64: how many examples each has."""

    @property
    def owner(self) -> np.ndarray:
        """(num_examples,) int64: the number, from 0, of each example's client."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def sums(self, values: np.ndarray, weighting: str) -> np.ndarray:
        """Sums (num_examples, d) values within each client, or averages them."""
        totals = np.add.reduceat(values, self.starts, axis=0)
        return totals / self.sizes[:, None] if weighting == "clients" else totals

    def counts(self, weighting: str) -> np.ndarray:
        """Returns (count, 1) float64: what each client counts for."""
        sizes = np.ones_like(self.sizes) if weighting == "clients" else self.sizes
        return sizes[:, None].astype(np.float64)


class Sums(NamedTuple):
    """Noisy sums over the population; public."""

    value: np.ndarray
    """(dimension,) float64. From a sampled cohort, scaled up to the population."""
    stddev: float
    """Of the noise on each, within 1 %."""


def noisy_sums(
    contributions: Contributions,
    dimension: int,
    data: FederatedData,
    privacy: Central,
    *,
    question: str,
    source: Source,
) -> Sums:
    """Releases the sum of the clients' vectors, once.

    Args:
        contributions: the vectors of some clients; an example adds at most 1.
        dimension: their length.
        data: the clients.
        privacy: sampling, clipping and noise.
        question: everything that tells this query from others. It enters the key, so
            that two queries given one key draw independent noise and cohorts.
        source: a ledger that pays for it, or the root key. With a key, the noise's
            key depends on the exact sum too, so that two sums never share their
            noise; take a new one for new data, whose cohort would be the old one.
    """
    check_sums(dimension, 1, data, privacy)

    def total(root: jax.Array, look: int) -> PyTree:
        # every look is charged as one with a cohort of its own
        branch = keys.for_round(_branch(root, question, privacy), look)
        key = keys.for_purpose(branch, Purpose.SAMPLING)
        cohort = privacy.sampling.draw(0, key=key)
        return _total(contributions, dimension, data, privacy, cohort, key=branch)

    def release(found: PyTree, key: jax.Array) -> np.ndarray:
        return np.asarray(_release(privacy, found, key=key), np.float64)

    if isinstance(source, Paid):
        mean = _paid.released(
            source,
            question,
            data,
            privacy,
            total=total,
            digest_of=digest_of,
            release=release,
        )
    else:
        found = total(source, 0)
        noise = keys.for_purpose(_branch(source, question, privacy), Purpose.NOISE)
        mean = release(found, _digested(noise, _bytes_of(found)))
    scale = privacy.sampling.population / UNIT
    share = privacy.sampling.population / privacy.sampling.expected_clients
    stddev = privacy.noise.multiplier * privacy.sensitivity() * share / UNIT
    return Sums(mean * scale, stddev)


def check_query(data: FederatedData, privacy: Central) -> None:
    """Checks that such data can be queried under such a guarantee."""
    check.instance(
        FederatedData, "build one with FederatedData.from_clients", data=data
    )
    check.instance(Central, "pass privacy.central(...)", privacy=privacy)
    check.instance(
        Fixed,
        "pass clipping.Fixed(norm=...), in examples per client",
        clipping=privacy.clipping,
    )
    if privacy.noise.multiplier == 0:
        raise ValueError(
            "the noise multiplier must be > 0, got 0; a query without noise publishes "
            "its clients: use privacy.calibrated(epsilon=..., delta=..., rounds=1)."
        )
    if privacy.sampling.population != data.num_clients:
        raise ValueError(
            f"the sampler counts {privacy.sampling.population} clients but data has "
            f"{data.num_clients}; set population=data.num_clients."
        )


def check_sums(
    dimension: int, releases: int, data: FederatedData, privacy: Central
) -> None:
    """Checks that such sums cannot overflow, and that their noise is near its law."""
    privacy.validate(
        params=jnp.zeros(dimension, jnp.float32),
        rounds=releases,
        local=_NO_WORK,
        client_sizes=data.client_sizes,
    )


def ratio_weight(parts: int) -> float:
    """Returns the share of an example's squared norm that its count gets.

    With a share t, noise of deviation s moves the mean of d columns in [-1, 1] by a
    variance of `(s / N)**2 (d / (1 - t) + mean**2 / t)` each. This t is the best where
    the mean is half-way between the middle and a bound, and at most a third worse
    than the best for any other (one column at its bound).
    """
    return 1 / (1 + 2 * np.sqrt(parts))


def digest_of(tree: PyTree) -> bytes:
    """Returns 256 bits that tell apart trees of arrays."""
    return hashlib.sha256(_bytes_of(tree)).digest()


def _total(
    contributions: Contributions,
    dimension: int,
    data: FederatedData,
    privacy: Central,
    cohort: np.ndarray,
    *,
    key: jax.Array,
) -> PyTree:
    """Returns the exact integer sum over a cohort. Private."""
    encoding = keys.for_purpose(key, Purpose.ENCODING)
    block = max(1, min(privacy.sampling.max_clients, _BLOCK_SCALARS // dimension))
    total = None
    for first in range(0, max(1, len(cohort)), block):
        numbers = cohort[first : first + block]
        vectors = np.zeros((block, dimension), np.float32)
        if len(numbers):  # padding rows stay zero, and are encoded as zero
            vectors[: len(numbers)] = UNIT * contributions(_clients(data, numbers))
        padded = np.zeros(block, np.int32)
        padded[: len(numbers)] = numbers
        part = _encoded_sum(privacy, vectors, padded, key=encoding)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


@functools.partial(jax.jit, static_argnums=0)
def _encoded_sum(
    privacy: Central, vectors: jax.Array, numbers: jax.Array, *, key: jax.Array
) -> PyTree:
    state = privacy.init(vectors[0])

    def encode(vector: jax.Array, number: jax.Array) -> PyTree:
        result = ClientResult(update=vector, weight=jnp.float32(1), client_state=())
        return privacy.encode(state, result, key=keys.for_client(key, number))

    encoded = jax.vmap(encode)(vectors, numbers)
    return jax.tree.map(lambda a: jnp.sum(a, axis=0, dtype=jnp.int32), encoded)


@functools.partial(jax.jit, static_argnums=0)
def _release(privacy: Central, total: PyTree, *, key: jax.Array) -> jax.Array:
    _, released = privacy.release(privacy.init(total.update), total, key=key)
    return released.value


def _clients(data: FederatedData, numbers: np.ndarray) -> Clients:
    first, last = data.offsets[numbers], data.offsets[numbers + 1]
    sizes = last - first
    ends = np.cumsum(sizes)
    starts = ends - sizes
    if numbers[-1] - numbers[0] == len(numbers) - 1:  # neighbours: a view, no copy
        return Clients(slice(int(first[0]), int(last[-1])), starts, sizes)
    return Clients(
        np.repeat(first - starts, sizes) + np.arange(ends[-1]), starts, sizes
    )


def _branch(root: jax.Array, question: str, privacy: Central) -> jax.Array:
    """Returns the branch of a root key for one question."""
    return _digested(check.key(key=root), f"{question}|{privacy.to_json()}".encode())


def _digested(key: jax.Array, data: bytes) -> jax.Array:
    """Returns the branch of `key` for some bytes."""
    words = np.frombuffer(hashlib.sha256(data).digest(), np.uint32) & _LEAF_BITS
    return _folded(key, words)


@jax.jit
def _folded(key: jax.Array, words: jax.Array) -> jax.Array:
    for index in range(words.shape[0]):
        key = keys.for_leaf(key, words[index])
    return key


def _bytes_of(tree: PyTree) -> bytes:
    parts = []
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        parts += [f"{array.dtype}{array.shape}".encode(), array.tobytes()]
    return b"|".join(parts)


def _nothing(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("a query has no local work")  # `validate` calls none of it


_NO_WORK = LocalWork(
    init=_nothing,
    step=_nothing,
    finish=_nothing,
    batching=Batching(batch_size=1, steps=1),
    name="a query",
)
