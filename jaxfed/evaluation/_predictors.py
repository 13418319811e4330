"""Predictions for all rows of some data, by one model or by each client's own."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from jaxfed import _check as check
from jaxfed import _program
from jaxfed.data import FederatedData
from jaxfed.typing import Params, PyTree

Predict = Callable[[Params, dict[str, jax.Array]], Any]
"""`(params, rows) -> outputs`, one row of outputs per row."""
_BLOCK = 8192  # rows predicted at once, which bounds memory
_SIDE_BY_SIDE = 32  # clients whose own models are held at once


class Predictor:
    """Predicts all rows of some arrays in blocks of one static shape."""

    def __init__(self, predict: Predict, arrays: dict[str, np.ndarray]):
        check.function("write (params, rows) -> outputs", predict=predict)
        self._predict = jax.jit(predict)
        self._arrays = arrays
        self._rows = len(next(iter(arrays.values())))

    def __call__(self, params: Params) -> np.ndarray:
        block = min(_BLOCK, self._rows)
        parts = []
        for start in range(0, self._rows, block):
            stop = min(start + block, self._rows)
            first = stop - block  # the last block overlaps: one shape, one trace
            rows = {n: np.asarray(a[first:stop]) for n, a in self._arrays.items()}
            outputs = np.asarray(self._outputs(params, rows), np.float64)
            _check_rows(outputs.shape, block)
            parts.append(outputs[start - first :])
        return np.concatenate(parts)

    def program_of(self, params: Params) -> bytes:
        """Returns a digest of what is computed. Private, as what it closes over."""
        rows = {
            name: jax.ShapeDtypeStruct(
                (min(_BLOCK, self._rows), *np.shape(a)[1:]),
                jax.dtypes.canonicalize_dtype(np.asarray(a).dtype),
            )
            for name, a in self._arrays.items()
        }
        return _program.digest_of(self._outputs, params, rows)

    def _outputs(self, params: Params, rows: dict[str, np.ndarray]) -> jax.Array:
        with _explained(rows):
            return self._predict(params, rows)


class PersonalPredictor:
    """Predicts each client's rows with its own model, several clients side by side.

    Clients are sorted by how many rows they have and padded to the next power of two,
    so that few shapes are compiled.
    """

    def __init__(self, personal: Any, predict: Predict, data: FederatedData):
        def of_one(params: Params, state: PyTree, rows: dict[str, jax.Array]) -> Any:
            return predict(personal(params, state), rows)

        self._predict = jax.jit(jax.vmap(of_one, (None, 0, 0)))
        self._data = data

    def __call__(self, params: Params, states: Any) -> np.ndarray:
        data, outputs = self._data, None
        widths = 1 << np.ceil(np.log2(data.client_sizes)).astype(np.int64)
        for width in np.unique(widths).tolist():
            alike = np.flatnonzero(widths == width)
            for start in range(0, len(alike), _SIDE_BY_SIDE):
                chosen = alike[start : start + _SIDE_BY_SIDE]
                padded = np.resize(chosen, min(_SIDE_BY_SIDE, len(alike)))
                own = np.arange(width) % data.client_sizes[padded][:, None]
                places = data.offsets[padded][:, None] + own
                rows = {n: np.asarray(a)[places] for n, a in data.arrays.items()}
                with _explained(rows):
                    predicted = self._predict(params, states(padded), rows)
                found = np.asarray(predicted, np.float64)
                _check_rows(found.shape[1:], width)
                if outputs is None:
                    outputs = np.empty((data.num_examples, *found.shape[2:]))
                for place, client in enumerate(chosen.tolist()):
                    first, size = data.offsets[client], data.client_sizes[client]
                    outputs[first : first + size] = found[place, :size]
        assert outputs is not None  # there are clients
        return outputs


def _check_rows(shape: tuple[int, ...], count: int) -> None:
    if shape[:1] != (count,):
        raise ValueError(
            f"predict must return one row of outputs per row, got shape {shape} for "
            f"{count} rows; do not average over rows."
        )


@contextlib.contextmanager
def _explained(rows: dict[str, np.ndarray]) -> Generator[None]:
    try:
        yield
    except Exception as error:
        shown = ", ".join(f"{n}: {a.dtype}{list(a.shape)}" for n, a in rows.items())
        raise ValueError(
            f"predict fails on rows of {{{shown}}}: {error}\nIt must accept "
            "(params, rows); check the names and shapes of model and data."
        ) from error
