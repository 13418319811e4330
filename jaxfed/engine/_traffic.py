"""How many bytes one client receives and sends in a round."""

from typing import NamedTuple

import jax

from jaxfed import tree
from jaxfed.typing import FederatedAlgorithm, Params

_FLOAT = 32


class Traffic(NamedTuple):
    """Of one client in one round; follows from public facts alone."""

    down: int
    """Bytes of what the server sends, as it is."""
    up: int
    """Bytes of the message back: compressed, or 4 for each scalar."""

    def of(self, num_asked: int, num_sent: int) -> dict[str, int]:
        """Returns the bytes of a cohort. Private: they tell its size."""
        return {
            "num_bytes_down": num_asked * self.down,
            "num_bytes_up": num_sent * self.up,
        }


def traffic_of(algorithm: FederatedAlgorithm, params: Params) -> Traffic:
    """Returns how many bytes one client receives and sends.

    What a transport adds, and a client's number of examples, are not counted.
    """
    local = algorithm.local

    def shared(params: Params) -> object:
        return algorithm.broadcast(algorithm.init(params))

    received = jax.tree.leaves(jax.eval_shape(shared, params))
    sent = jax.eval_shape(local.sends, params)
    if local.compression is None:
        bits = _FLOAT * tree.size(sent)
    else:
        bits = local.compression.num_bits(sent)
    down = sum(leaf.size * leaf.dtype.itemsize for leaf in received)
    return Traffic(down=down, up=-(-bits // 8))
