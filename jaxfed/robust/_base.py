"""What every rule of robust aggregation has in common."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxfed import tree
from jaxfed._config import Configuration
from jaxfed.typing import PyTree

# squares of differences of 2**30 such numbers add up in float32
_MOST = 2.0**47


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(Configuration, abc.ABC):
    """A value made of all reports of a round, side by side; every report counts alike.

    A rule is no sum over clients: it needs every single report. So nothing can hide
    single reports from who computes it, and it has no guarantee of differential
    privacy.
    """

    def combine(self, reports: PyTree, is_real: jax.Array) -> PyTree:
        """Returns one value for all reports.

        The order of reports does not matter. A report that is not real does not
        count, whatever it holds, and neither does one with NaN or infinity. Magnitudes
        above 2**47 (1.4e14) count as that. Compiles once for a number of slots, however
        many of them are real.

        Args:
            reports: leaves (slots, ...), in the units of the parameters. Private.
            is_real: (slots,) bool; False marks padding, or a client that failed.

        Returns:
            Leaves (...) float32; zeros where no report counts. Private.

        Raises:
            ValueError: there are no leaves, or their first axes differ in length.
            TypeError: `is_real` is not boolean.
        """
        is_real = jnp.asarray(is_real)
        _check(reports, is_real)
        rows = jax.vmap(lambda report: ravel_pytree(report)[0])(
            tree.astype(reports, jnp.float32)
        )
        counted = is_real & jnp.all(jnp.isfinite(rows), axis=1)
        rows = jnp.where(counted[:, None], jnp.clip(rows, -_MOST, _MOST), 0.0)
        value = jnp.where(jnp.any(counted), self._combine(rows, counted), 0.0)
        one = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], jnp.float32), reports)
        return ravel_pytree(one)[1](value)

    @abc.abstractmethod
    def _combine(self, rows: jax.Array, counted: jax.Array) -> jax.Array:
        """Returns the value of all reports as vectors.

        Args:
            rows: (slots, size) float32; zeros where not counted.
            counted: (slots,) bool; which rows are reports. If none is, any value will
                do.

        Returns:
            (size,) float32.
        """

    @property
    def least_reports(self) -> int:
        """With fewer reports the value is zero."""
        return 1

    @abc.abstractmethod
    def describe(self) -> str:
        """Returns one clause for people: what the value is."""


def weighted_sum(rows: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the sum of rows times `weights`, (slots,) float32.

    No product of matrices, which accelerators may round to fewer bits.
    """
    return jnp.sum(weights[:, None] * rows, axis=0)


def norms(rows: jax.Array) -> jax.Array:
    """Returns the L2 norm of each row, (slots,) float32."""
    return jnp.sqrt(jax.vmap(tree.sum_of_squares)(rows))


def _check(reports: PyTree, is_real: jax.Array) -> None:
    if not jnp.issubdtype(is_real.dtype, jnp.bool_):
        raise TypeError(
            f"is_real must be boolean, got {is_real.dtype}; pass which reports count."
        )
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(reports)}
    if is_real.ndim != 1 or lengths != {is_real.shape}:
        raise ValueError(
            f"reports must have leaves (slots, ...) and is_real be (slots,), got first "
            f"axes {sorted(lengths)} and {is_real.shape}; stack one report a slot."
        )
