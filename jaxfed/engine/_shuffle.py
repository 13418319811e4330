"""Which rows form which batch: shuffled passes, or Poisson samples, of each client."""

import jax
import numpy as np

from jaxfed import keys
from jaxfed.data import FederatedData
from jaxfed.engine import _poisson
from jaxfed.engine._poisson import within
from jaxfed.typing import Batching

_LEAST_RANDOM_BITS = 24  # of a sort key; with fewer, ties would favour early examples


class Work:
    """What each client of the population has to do.

    Attributes:
        sizes: (num_clients,) how many examples each has.
        offsets: (num_clients,) its first row.
        passes: (num_clients,) how many batches a pass over its examples has.
        steps: (num_clients,) how many batches it takes in a round.
        remainders: (num_clients,) how many rows the last batch of a pass has.
        width: how many rows the widest batch has.
    """

    def __init__(self, data: FederatedData, batching: Batching):
        self._batching = batching
        self.sizes = data.client_sizes
        self.offsets = data.offsets[:-1]
        self.width = min(batching.batch_size, int(self.sizes.max()))
        self.passes = -(-self.sizes // batching.batch_size)
        if batching.epochs is not None:
            self.steps = self.passes * batching.epochs
        else:
            self.steps = np.full(len(self.sizes), batching.steps)
        self.remainders = self.sizes - (self.passes - 1) * batching.batch_size
        if batching.rate is not None:  # every batch may be full
            self.remainders = np.full(len(self.sizes), self.width)

    def source(self, key: jax.Array) -> np.uint64 | jax.Array:
        """Returns what `rows` draws all blocks of a round from.

        The key itself where batches are Poisson samples; 64 bits of it where they are
        shuffled passes, which no guarantee rests on.

        Args:
            key: the round's, for shuffling; consumed.
        """
        return keys.host_words(key, 1)[0] if self._batching.rate is None else key

    def rows(
        self,
        lines: int,
        clients: np.ndarray,
        first: np.ndarray,
        base: np.ndarray,
        source: np.uint64 | jax.Array,
    ) -> np.ndarray:
        """Returns (lines, width) int32 of row numbers, padding slots inverted.

        Args:
            lines: how many.
            clients: (count,) client numbers.
            first: (count,) the first line of each.
            base: (count,) the number of each client's first row.
            source: what `self.source` returned for this round.
        """
        out = np.full((lines, self.width), -1, np.int32)
        if len(clients) > 0:
            if isinstance(source, jax.Array):
                self._sample(out.reshape(-1), clients, first, base, key=source)
            else:
                self._shuffle(out.reshape(-1), clients, first, base, source)
        # a padding slot names a row of its own client, inverted
        padding = np.flatnonzero(out.reshape(-1) < 0)
        own = np.maximum(out[:, 0], 0)
        if self._batching.rate is not None:  # whose batches may be empty
            steps = self.steps[clients]
            place = np.repeat(first, steps) + within(steps)
            own[place] = np.repeat(base, steps)
        out.reshape(-1)[padding] = ~own[padding // self.width]
        return out

    def _sample(
        self,
        out: np.ndarray,
        clients: np.ndarray,
        first: np.ndarray,
        base: np.ndarray,
        *,
        key: jax.Array,
    ) -> None:
        """Fills lines with truncated Poisson samples of each client's examples."""
        assert self._batching.rate is not None  # Poisson batches
        drawn = _poisson.samples(
            clients,
            self.sizes[clients],
            self.steps[clients],
            rate=self._batching.rate,
            width=self.width,
            key=key,
        )
        line = first[drawn.client] + drawn.step
        out[line * self.width + drawn.slot] = base[drawn.client] + drawn.position

    def _shuffle(
        self,
        out: np.ndarray,
        clients: np.ndarray,
        first: np.ndarray,
        base: np.ndarray,
        word: np.uint64,
    ) -> None:
        """Fills lines with passes over each client's shuffled examples."""
        size, steps, passes = self._batching.batch_size, self.steps, self.passes
        count = -(-steps[clients] // passes[clients])
        # one group for each pass of each client, one element for each of its examples
        owner = np.repeat(np.arange(len(clients)), count)
        number = within(count)
        lengths = self.sizes[clients][owner]
        group = np.repeat(np.arange(len(owner)), lengths)
        position = within(lengths)
        example = _shuffled(_mix(word, clients[owner], number), group, position)
        start = first[owner] + number * passes[clients][owner]
        limit = (first + steps[clients])[owner]  # the last pass may stop half-way
        line = position // size
        place = start[group] + line
        value = base[owner][group] + example
        slot = place * self.width + (position - line * size)
        if self._batching.epochs is None:
            kept = place < limit[group]
            slot, value = slot[kept], value[kept]
        out[slot] = value


def _shuffled(words: np.ndarray, group: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Returns the positions of each group in random order.

    Sorts one integer an element: its group, then random bits, then its position.
    """
    bits_of_group = max(1, int(len(words) - 1).bit_length())
    bits_of_position = max(1, int(position.max()).bit_length())
    random = _finalised(words[group] + position.astype(np.uint64) * _GOLDEN)
    if 64 - bits_of_group - bits_of_position < _LEAST_RANDOM_BITS:
        return position[np.lexsort((random, group))]
    mask = np.uint64((1 << bits_of_position) - 1)
    packed = (random >> np.uint64(bits_of_group)) & ~mask
    packed |= position.astype(np.uint64)
    packed |= group.astype(np.uint64) << np.uint64(64 - bits_of_group)
    packed.sort()
    return (packed & mask).astype(np.int64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(word: np.uint64, *indices: np.ndarray) -> np.ndarray:
    """Hashes a word and indices to 64 bits (SplitMix64, Steele et al. 2014)."""
    state = np.full(len(indices[0]), word, np.uint64)
    for index in indices:
        state = _finalised(state + index.astype(np.uint64) + _GOLDEN)
    return state


def _finalised(state: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64; a bijection of 64-bit words."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
