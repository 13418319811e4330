"""Compression: shorter messages from clients, and what a server reads out of them.

A compressor is a frozen dataclass with `compress`, `num_bits`, `is_unbiased` and
`expands`; `compressed` puts one behind any local work. Gives no privacy by itself.
"""

from jaxfed.compression._compressed import Compressor as Compressor
from jaxfed.compression._compressed import compressed as compressed
from jaxfed.compression._quantization import (
    StochasticQuantization as StochasticQuantization,
)
from jaxfed.compression._random_k import RandomK as RandomK
from jaxfed.compression._rotated import Rotated as Rotated
from jaxfed.compression._top_k import TopK as TopK
