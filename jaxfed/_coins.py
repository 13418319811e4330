"""The threshold of a coin: a probability in 96 bits, of which 32 nearly always decide.

Everything that flips coins for a release compares uniform words with it, so that all of
them have the same law.
"""


def threshold(probability: float) -> tuple[int, int]:
    """Returns what the first 32 bits of a true coin are below, and 64 bits at the edge.

    A coin is true where its first 32 bits are below the first number, or equal to it
    and the next 64 bits are below the second. That has the probability, the float
    taken exactly, from 2**-44 on, and below at most 2**-96 more. The second is 0 where
    32 bits always decide.

    Args:
        probability: in (0, 1].
    """
    numerator, denominator = float(probability).as_integer_ratio()
    whole, rest = divmod(numerator << 32, denominator)
    return whole, -(-(rest << 64) // denominator)
