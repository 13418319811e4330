"""Poisson batches: each example joins each step by its own coin, drawn from the key.

Truncated Poisson sampling (Ganesh et al. 2025, arXiv:2508.15089), which is what
`privacy.example_level` accounts. The coins are those of `keys.host_coins`: true with
the rate, the float taken exactly. Where more than a batch holds join, which of them
stay is uniform to 2**-129 times the squared number of those who joined, in total
variation. From a secure key nobody can tell any of it from true randomness.

A client's coins are numbered step by step and drawn in tiles, each from a key of its
own: the round's, then the client's, then the use, then the tile. So a batch depends on
the key, on its client's number and size and on its step, and on nobody else; and what
is drawn at once always has the same shape, whatever the cohort.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfed import _coins, keys

_TILE = 1024  # coins from one key: with half, ChaCha20 takes three times as long on CPU
_TILES = 256  # drawn by one call, 1 MiB of first words: it stays in a core's cache
# the uses of a coin's words: its first 32 bits, 64 further ones, its place in a queue
_FIRST, _EDGE, _ORDER = range(3)
_WORDS = (1, 2, 4)  # how many of 32 bits, for each use


class Samples(NamedTuple):
    """Who is in which batch, one element for each place that is taken.

    Every field (count,) int64; ascending by client, then step, then position.
    """

    client: np.ndarray
    """Which of the clients, by its place in the list of them."""
    step: np.ndarray
    """Which of the client's batches."""
    slot: np.ndarray
    """Which place of the batch."""
    position: np.ndarray
    """Which of the client's examples."""


def samples(
    clients: np.ndarray,
    sizes: np.ndarray,
    steps: np.ndarray,
    *,
    rate: float,
    width: int,
    key: jax.Array,
) -> Samples:
    """Draws the batches of clients in a round.

    Args:
        clients: (count,) client numbers.
        sizes: (count,) how many examples each has.
        steps: (count,) how many batches each takes.
        rate: the probability of joining, in (0, 1].
        width: how many examples a batch holds.
        key: of the round; only folded into, so that blocks of a cohort share it.
    """
    tiles = -(-sizes * steps // _TILE)
    owner = np.repeat(np.arange(len(clients)), tiles)
    grid = _Grid(clients[owner].astype(np.int32), within(tiles).astype(np.int32))
    place = _true_coins(grid, rate, key=key)
    client = owner[place // _TILE]
    coin = grid.number[place // _TILE].astype(np.int64) * _TILE + place % _TILE
    is_real = coin < (sizes * steps)[client]  # no tile ends with its client's coins
    place, client, coin = place[is_real], client[is_real], coin[is_real]
    step, position = np.divmod(coin, sizes[client])
    line = (np.cumsum(steps) - steps)[client] + step
    count = np.bincount(line, minlength=int(steps.sum()))
    if (count > width).any():
        stays = _uniform_part(grid, place, line, count, width, key=key)
        client, step, position = client[stays], step[stays], position[stays]
        count = np.minimum(count, width)
    return Samples(client, step, within(count), position)


def within(lengths: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ..., length - 1 for each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


class _Grid(NamedTuple):
    """The tiles of coins of some clients, client by client.

    Coin j of tile i is at place `i * _TILE + j`.
    """

    client: np.ndarray  # (tiles,) int32
    number: np.ndarray  # (tiles,) int32 among its client's


def _true_coins(grid: _Grid, rate: float, *, key: jax.Array) -> np.ndarray:
    """Returns the places of coins that are true, ascending."""
    whole, part = _coins.threshold(rate)
    last = whole if part else whole - 1
    found, edges = [], []
    for start, first in _drawn(grid, _FIRST, key=key):
        words = first.reshape(-1)
        true = np.flatnonzero(words <= last)
        found.append(true + start * _TILE)
        edges.append(words[true] == whole)
    place, on_the_edge = np.concatenate(found), np.concatenate(edges)
    if on_the_edge.any():  # hardly ever: 64 further bits decide
        further = _long(_words_at(grid, _EDGE, place[on_the_edge], key=key))
        on_the_edge[on_the_edge] = further > np.uint64(part - 1)
        place = place[~on_the_edge]
    return place


def _uniform_part(
    grid: _Grid,
    place: np.ndarray,
    line: np.ndarray,
    count: np.ndarray,
    width: int,
    *,
    key: jax.Array,
) -> np.ndarray:
    """Returns whether each place stays: of each line that overflows, `width` at random.

    Those whose 128 bits are smallest, which any of them is equally likely to be.
    """
    crowded = np.flatnonzero((count > width)[line])
    words = _words_at(grid, _ORDER, place[crowded], key=key)
    order = np.lexsort((_long(words[:, 2:]), _long(words[:, :2]), line[crowded]))
    stays = np.ones(len(place), bool)
    stays[crowded[order]] = within(count[count > width]) < width
    return stays


def _words_at(
    grid: _Grid, use: int, place: np.ndarray, *, key: jax.Array
) -> np.ndarray:
    """Returns the words of some places, ascending; draws no tile but theirs."""
    tiles, of = np.unique(place // _TILE, return_inverse=True)
    out = np.empty((len(place), _WORDS[use]), np.uint32)
    chosen = _Grid(grid.client[tiles], grid.number[tiles])
    for start, words in _drawn(chosen, use, key=key):
        mine = slice(*np.searchsorted(of, [start, start + len(words)]))
        out[mine] = words[of[mine] - start, place[mine] % _TILE]
    return out


def _long(words: np.ndarray) -> np.ndarray:
    """Returns pairs of 32-bit words as uint64, (count,)."""
    return (words[:, 0].astype(np.uint64) << np.uint64(32)) | words[:, 1]


def _drawn(
    grid: _Grid, use: int, *, key: jax.Array
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields a tile's number and the words from there on, (tiles, coins, words)."""
    for start in range(0, len(grid.client), _TILES):
        client, number = (a[start : start + _TILES] for a in grid)
        count = len(client)
        padding = (0, _TILES - count)
        words = _tiles(
            key, np.pad(client, padding), np.pad(number, padding), np.int32(count), use
        )
        yield start, np.asarray(words)[:count]


@functools.partial(jax.jit, static_argnums=4)
def _tiles(
    key: jax.Array, clients: jax.Array, numbers: jax.Array, count: jax.Array, use: int
) -> jax.Array:
    """Draws the first `count` tiles, (_TILES, _TILE, words) uint32; others are any."""

    def tile(client: jax.Array, number: jax.Array) -> jax.Array:
        own = keys.for_leaf(keys.for_leaf(keys.for_client(key, client), use), number)
        bits = jax.random.bits(own, (_TILE * _WORDS[use],), jnp.uint32)
        return bits.reshape(_TILE, _WORDS[use])

    def one_by_one(clients: jax.Array, numbers: jax.Array) -> jax.Array:
        def put(index: jax.Array, out: jax.Array) -> jax.Array:
            return out.at[index].set(tile(clients[index], numbers[index]))

        out = jnp.zeros((_TILES, _TILE, _WORDS[use]), jnp.uint32)
        return lax.fori_loop(0, count, put, out)

    return lax.platform_dependent(
        clients, numbers, cpu=one_by_one, default=jax.vmap(tile)
    )
