"""What a round costs in the accountant of Flower: a check, a spend, and a reading.

Run with Flower's own environment; prints one line of JSON, milliseconds by round.
"""

import json
import sys
import time

import flwr
from flwr.supercore.privacy_accounting import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    SamplingMethod,
)
from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

CLIENTS = 10_000


def main(rounds):
    """Measures that many rounds of the same release."""
    config = PrivacyConfig(
        target_delta=1e-5,
        population_size=CLIENTS,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
        max_epsilon=1e6,
    )
    event = GaussianPrivacyEvent(
        noise_multiplier=20.0, sample_size=CLIENTS, population_size=CLIENTS
    )
    accountant, found = RdpAccountant(config), []
    for _ in range(rounds):
        start = time.perf_counter()
        assert not accountant.would_exceed(event)
        accountant.compose(event)
        accountant.get_privacy_spent()
        found.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"flwr": flwr.__version__, "ms": found}))


main(int(sys.argv[1]))
