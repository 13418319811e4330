"""The planner: from a cohort to one array of row numbers, in vectorised NumPy.

A client's shuffle depends on the round's key and on its own number alone, so that
neither the order of the cohort nor padding changes what it trains on.
"""

from typing import Any

import jax
import numpy as np

from jaxfed.data import FederatedData
from jaxfed.typing import Batching, Cohort


class Planner:
    """Lays out the local steps of cohorts in arrays of one static shape."""

    def __init__(
        self, data: FederatedData, batching: Batching, *, max_clients: int, lanes: int
    ):
        """Sizes the arrays for the largest cohort that may come.

        Args:
            data: all clients' examples.
            batching: how local work wants them.
            max_clients: the sampler's cap.
            lanes: how many clients are stepped side by side.
        """
        self._offsets = data.offsets
        self._sizes = data.client_sizes
        self._batching = batching
        self._width = min(batching.batch_size, int(self._sizes.max()))
        self._passes_of = -(-self._sizes // batching.batch_size)  # batches in a pass
        self._steps = (
            self._passes_of * batching.epochs
            if batching.epochs is not None
            else np.full(len(self._sizes), batching.steps)
        )
        self._shape = (-(-max_clients // lanes), lanes)
        longest = np.partition(self._steps, -max_clients)[-max_clients:]
        self._lines = int(longest.sum())
        if data.num_examples >= 2**31:
            raise ValueError(
                f"data must have fewer than 2**31 examples, got {data.num_examples}; "
                "split it over several runs."
            )

    def plan(self, clients: np.ndarray, shuffle_word: np.uint64) -> Cohort:
        """Returns the plan of one round.

        Args:
            clients: (count,) distinct client numbers.
            shuffle_word: 64 random bits of this round.
        """
        clients = clients[np.argsort(-self._steps[clients], kind="stable")]
        count, population = len(clients), len(self._sizes)
        steps = self._steps[clients]
        first = np.cumsum(steps) - steps

        def padded(values: Any, fill: int) -> Any:
            out = np.full(self._shape[0] * self._shape[1], fill, np.int32)
            out[:count] = values
            return out.reshape(self._shape)

        cohort = Cohort(
            clients=padded(clients, population),
            is_real=padded(np.ones(count), 0).astype(bool),
            num_examples=padded(self._sizes[clients], 1),
            first_step=padded(first, 0),
            num_steps=padded(steps, 0),
            rows=self._rows(clients, first, shuffle_word),
        )
        return jax.device_put(cohort)

    def _rows(self, clients: np.ndarray, first: np.ndarray, word: np.uint64) -> Any:
        lines = np.full((self._lines, self._width), -1, np.int32)
        if len(clients) > 0:
            if self._batching.rate is None:
                self._shuffle(lines, clients, first, word)
            else:
                self._sample(lines, clients, word)
        # a padding slot names a real row of its own batch, inverted
        return np.where(lines < 0, ~np.maximum(lines[:, :1], 0), lines)

    def _sample(self, lines: np.ndarray, clients: np.ndarray, word: np.uint64) -> None:
        """Fills lines with truncated Poisson samples of each client's examples."""
        steps = self._steps[clients]
        owner = np.repeat(np.arange(len(clients)), steps)  # one line each, in order
        lengths = self._sizes[clients][owner]
        line = np.repeat(np.arange(len(owner)), lengths)
        position = _within(lengths)
        random = _mix(word, clients[owner][line], _within(steps)[line], position)
        # a probability as a 53-bit threshold: exact for 1, within 2**-53 otherwise
        assert self._batching.rate is not None  # Poisson batches
        threshold = self._batching.rate * 2.0**53
        joins = (random >> np.uint64(11)).astype(np.float64) < threshold
        line, position, random = line[joins], position[joins], random[joins]
        order = np.lexsort((random, line))  # the smallest words: a uniform choice
        line, position = line[order], position[order]
        slot = _within(np.bincount(line, minlength=len(owner)))
        kept = slot < self._width
        line, position, slot = line[kept], position[kept], slot[kept]
        lines[line, slot] = self._offsets[clients][owner[line]] + position

    def _shuffle(
        self, lines: np.ndarray, clients: np.ndarray, first: np.ndarray, word: np.uint64
    ) -> None:
        """Fills lines with passes over each client's shuffled examples."""
        size = self._batching.batch_size
        passes = -(-self._steps[clients] // self._passes_of[clients])
        # one group for each pass of each client, one element for each of its examples
        owner = np.repeat(np.arange(len(clients)), passes)
        pass_index = _within(passes)
        lengths = self._sizes[clients][owner]
        group = np.repeat(np.arange(len(owner)), lengths)
        position = _within(lengths)
        random = _mix(word, clients[owner][group], pass_index[group], position)
        example = position[np.lexsort((random, group))]
        line = pass_index[group] * self._passes_of[clients][owner][group]
        line += position // size
        kept = line < self._steps[clients][owner][group]
        of = owner[group][kept]
        row = self._offsets[clients][of] + example[kept]
        lines[first[of] + line[kept], position[kept] % size] = row


def _within(lengths: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ..., length - 1 for each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _mix(word: np.uint64, *indices: np.ndarray) -> np.ndarray:
    """Hashes a word and indices to 64 bits (SplitMix64, Steele et al. 2014)."""
    state = np.full(len(indices[0]), word, np.uint64)
    with np.errstate(over="ignore"):
        for index in indices:
            state = state + index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state
