"""Integer noise in constant time, with its distance from the ideal law computed.

A large scale is drawn as k X + Y from two small tables: Micciancio and Walter 2017,
"Gaussian sampling over the integers: efficient, generic, constant-time" (convolution),
with the smoothing bound of Peikert 2010, "An efficient and parallel Gaussian sampler
for lattices". Tables are drawn by the alias method (`_alias`).

Guarantee: one draw is within `distance`, at most `2**-75`, in total variation of the
law that its function names, if the words behind the key are uniform; for a secure key
nobody can tell them apart, for a simulated key (threefry) this is no claim about
privacy. n draws are within `n * distance`: 2**30 draws within 2**-45. Every draw takes
the same operations on the same number of words, whatever comes out.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Generator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxfed import _check as check
from jaxfed.noise import _alias
from jaxfed.noise._words import words
from jaxfed.vault import _laws, _tables

# a block's words, and what becomes of them, stay in the second-level cache
_BLOCK = 4096
_LEAST_SHARED = 1 << 14  # a smaller draw costs less than sharing it
_BLOCKS_AT_ONCE = 256  # where blocks run side by side, on an accelerator
_LEAST_SCALE = 0.5
# up to these no draw reaches 2**30, and tables hold the law
_MOST_SCALE = 2**30 / 12
_MOST_LAPLACE = 2**23
_MOST_SKELLAM = 2**23


_mesh: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar(
    "mesh", default=None
)


@contextlib.contextmanager
def shared_over(mesh: Mesh) -> Generator[None]:
    """Lets the devices of a mesh share large draws; the bits are the same.

    For programs that all devices of the mesh run as one, while they are traced.

    Args:
        mesh: of one axis.
    """
    token = _mesh.set(mesh if mesh.size > 1 else None)
    try:
        yield
    finally:
        _mesh.reset(token)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sampler:
    """Noise on the integers, symmetric around 0; compares and hashes by identity.

    Args:
        law: the name of the ideal law.
        scale: its scale, in units of the grid.
        parts: (factor, table) pairs: a draw is the sum of factor times table draw.
        convolution_error: how far that sum would be from the law, in total variation,
            if the tables were exact.
    """

    law: str
    scale: float
    parts: tuple[tuple[int, _alias.Table], ...] = dataclasses.field(repr=False)
    convolution_error: float

    @property
    def distance(self) -> float:
        """Bound of the total-variation distance of one draw from the ideal law.

        Computed from the tables: their rounding, the tails they cut, and the error of
        the convolution (a function of independent draws is no further from its ideal
        than the draws together).
        """
        tables = sum(table.distance for _, table in self.parts)
        return (self.convolution_error + tables) * (1 + 2.0**-50)

    @property
    def largest(self) -> int:
        """|draw| is at most this, always: where the tables end. Below 2**30."""
        return sum(factor * table.largest for factor, table in self.parts)

    def draw(self, shape: tuple[int, ...], *, key: jax.Array) -> jax.Array:
        """Draws independent noise of that shape (int32).

        The same key and shape give the same bits inside and outside `jit` and on every
        device. Memory beyond the result hardly grows with the shape. Consumes the key.
        """
        size = math.prod(shape)
        mesh = _mesh.get()
        if mesh is None or size < _LEAST_SHARED:
            drawn = self.draw_part(size, part=0, parts=1, key=key)
            return drawn[:size].reshape(shape)
        (axis,) = mesh.axis_names

        def own(data: jax.Array) -> jax.Array:
            whole = jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
            part = lax.axis_index(axis)
            return self.draw_part(size, part=part, parts=mesh.size, key=whole)

        share = jax.shard_map(
            own,
            mesh=mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(axis),
            check_vma=False,
        )
        return share(jax.random.key_data(key))[:size].reshape(shape)

    def draw_part(
        self, size: int, *, part: jax.Array | int, parts: int, key: jax.Array
    ) -> jax.Array:
        """Draws one device's part of `draw((size,), key=key)` (int32).

        The parts 0, ..., parts - 1, one after the other and cut to `size`, are the
        bits of `draw`, for any number of parts: devices that share the work release
        what one device would. Every part has the same length.

        Args:
            size: how many draws all parts make together.
            part: which part; may be traced, such as `lax.axis_index`.
            parts: how many parts there are.
            key: the key of the whole, the same for every part.
        """
        check.key(key=key)
        check.positive_integer(parts=parts)
        blocks = max(1, -(-size // _BLOCK))
        lanes = -(-size // blocks)
        each = -(-blocks // parts)
        if size == 0 or not self.parts:
            return jnp.zeros(each * lanes, jnp.int32)
        own = lax.dynamic_slice_in_dim(
            jax.random.split(key, each * parts), jnp.asarray(part) * each, each
        )
        block = functools.partial(self._block, lanes=lanes)
        drawn = lax.platform_dependent(
            own,
            cpu=lambda keys: lax.map(block, keys),
            default=lambda keys: lax.map(block, keys, batch_size=_BLOCKS_AT_ONCE),
        )
        return drawn.reshape(-1)

    def _block(self, key: jax.Array, *, lanes: int) -> jax.Array:
        uniform = words(key, _alias.WORDS * len(self.parts), lanes)
        total = jnp.zeros(lanes, jnp.int32)
        for i, (factor, table) in enumerate(self.parts):
            own = uniform[_alias.WORDS * i : _alias.WORDS * (i + 1)]
            total = total + np.int32(factor) * table.draw(own)
        return total


def gaussian(scale: float) -> Sampler:
    """Returns the discrete Gaussian: P(x) proportional to exp(-x**2 / (2 scale**2)).

    Args:
        scale: sigma in units of the grid: 0 (no noise), or from 0.5 to 2**30 / 12.

    Raises:
        ValueError: the scale is out of range.
    """
    return _gaussian(_checked(_MOST_SCALE, scale=scale))


def laplace(scale: float) -> Sampler:
    """Returns the discrete Laplace: P(x) proportional to exp(-|x| / scale).

    Args:
        scale: in units of the grid: 0 (no noise), or from 0.5 to 2**23.

    Raises:
        ValueError: the scale is out of range.
    """
    return _laplace(_checked(_MOST_LAPLACE, scale=scale))


def skellam(variance: float) -> Sampler:
    """Returns the Skellam law: the difference of two Poissons of mean variance / 2.

    Args:
        variance: in units of the grid, squared: 0 (no noise), or from 0.5 to 2**23.

    Raises:
        ValueError: the variance is out of range.
    """
    return _skellam(_checked(_MOST_SKELLAM, variance=variance))


def _checked(most: float, **named: float) -> float:
    ((name, value),) = named.items()
    number = check.real("choose it from the grid's step", **named)
    if number != 0 and not _LEAST_SCALE <= number <= most:
        raise ValueError(
            f"{name} must be 0 or in [{_LEAST_SCALE}, {most:.10g}] units of the grid, "
            f"got {value}; choose a {'finer' if number < 1 else 'coarser'} grid."
        )
    return number


@functools.lru_cache(maxsize=64)
def _gaussian(scale: float) -> Sampler:
    parts, error = _tables.gaussian(scale)
    return Sampler(
        law="discrete Gaussian",
        scale=scale,
        parts=tuple((factor, _alias.of(rows)) for factor, rows in parts),
        convolution_error=error,
    )


@functools.lru_cache(maxsize=64)
def _laplace(scale: float) -> Sampler:
    return Sampler(
        law="discrete Laplace",
        scale=scale,
        parts=tuple((f, _alias.of(rows)) for f, rows in _tables.laplace(scale)),
        convolution_error=0.0,
    )


@functools.lru_cache(maxsize=64)
def _skellam(variance: float) -> Sampler:
    laws = [_laws.skellam(Fraction(variance))] if variance else []
    return Sampler(
        law="Skellam",
        scale=math.sqrt(variance),
        parts=tuple((1, _alias.build(law)) for law in laws),
        convolution_error=0.0,
    )
