"""Who is asked in a round: the sampler's cohort, always the same, as contracted."""

import jax
import numpy as np

from jaxfed import sampling
from jaxfed.deploy import _words
from jaxfed.sampling import Sampler


class Cohorts:
    """The cohorts of one run.

    Args:
        sampler: of the run's privacy object.
        horizon: how many rounds are planned.
        root: the root key of the run.
    """

    def __init__(self, sampler: Sampler, horizon: int, root: jax.Array):
        self._sampler, self._key = sampler, _words.sampling_key(root)
        self._contract = sampler.participation(horizon)
        self._is_limited = self._contract.max_participations < horizon
        self._attendance = sampling.no_attendance(sampler.population)
        self._attended = 0

    def of(self, index: int) -> np.ndarray:
        """Returns the numbers of the clients of a round; rounds come in order.

        Raises:
            ValueError: the contract of participation is broken; nobody is asked.
        """
        cohort = self._sampler.draw(index, key=self._key)
        while self._is_limited and self._attended <= index:
            number = self._attended
            self._attendance = sampling.attend(
                self._attendance,
                self._sampler.draw(number, key=self._key),
                round_index=number,
                participation=self._contract,
            )
            self._attended += 1
        return cohort
