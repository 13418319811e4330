"""`FederatedData`: every client's examples, stored once.

Flat arrays plus offsets: client i owns rows `offsets[i]:offsets[i + 1]` of every
array, so that a million clients cost one integer each and a cohort is a gather.
"""

import dataclasses
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfed import _check as check
from jaxfed.data import _validation as validation


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FederatedData:
    """Examples of many clients as flat arrays with offsets.

    Build one with `from_clients`, `from_arrays`, `from_frame`, `from_csv` or
    `open`; the constructor takes the parts as they are stored and checks them.

    Raises:
        ValueError: arrays of different lengths, a client without examples, NaN or
            infinite values, repeated client ids, or a dtype that is not a number
            or bool. The message names the array and the client.
    """

    arrays: Mapping[str, np.ndarray]
    """Leaves (num_examples, ...); may be memory-mapped."""
    offsets: np.ndarray
    """(num_clients + 1,) int64, rising from 0 to num_examples."""
    client_ids: np.ndarray
    """(num_clients,) the clients' names, unique: integers or strings."""
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Public facts about each client, (num_clients,), such as its hospital group."""

    def __post_init__(self) -> None:
        check.instance(Mapping, 'pass {"x": array, "y": array}', arrays=self.arrays)
        check.instance(
            Mapping, "pass {name: one value per client}", columns=self.columns
        )
        arrays = {n: validation.rows(a, f"array {n!r}") for n, a in self.arrays.items()}
        columns = {
            n: validation.rows(c, f"column {n!r}") for n, c in self.columns.items()
        }
        for named in (arrays, columns):  # what was validated is not written to
            for name in named:
                named[name] = named[name].view()
                named[name].flags.writeable = False
        object.__setattr__(self, "arrays", arrays)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "offsets", np.asarray(self.offsets, np.int64))
        object.__setattr__(
            self, "client_ids", validation.ids(self.client_ids, "client_ids")
        )
        validation.validate(self)

    @classmethod
    def from_clients(
        cls,
        clients: Mapping[Any, Mapping[str, Any]],
        *,
        columns: Mapping[str, Any] | None = None,
    ) -> "FederatedData":
        """Builds from a mapping `{client_id: {"x": array, "y": array}}`.

        Args:
            clients: every client has the same array names, with the same trailing
                shapes; within a client all arrays have one length >= 1.
            columns: public facts, `{name: one value per client}`, in that order.
        """
        check.instance(Mapping, "pass {client_id: {name: array}}", clients=clients)
        if not clients:
            raise ValueError("clients is empty; pass at least one client.")
        names = validation.array_names(clients)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        sizes = []
        for client, arrays in clients.items():
            lengths = {}
            for name in names:
                array = validation.rows(
                    arrays[name], f"array {name!r} of client {client!r}"
                )
                parts[name].append(array)
                lengths[name] = len(array)
            if len(set(lengths.values())) > 1:
                raise ValueError(
                    f"client {client!r} has arrays of different lengths "
                    f"{lengths}; give every example one row in each array."
                )
            sizes.append(next(iter(lengths.values())))
        return cls(
            arrays={
                n: validation.concatenate(n, p, list(clients)) for n, p in parts.items()
            },
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            client_ids=validation.ids(list(clients), "client_ids"),
            columns=columns or {},
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], *, client: Any) -> "FederatedData":
        """Builds from arrays with one row per example and a column of client ids.

        Args:
            arrays: leaves (num_examples, ...).
            client: (num_examples,) the id of the client that owns each row. Rows need
                not be sorted; each client keeps its rows in their given order.
        """
        check.instance(Mapping, 'pass {"x": array, "y": array}', arrays=arrays)
        owner = validation.ids(client, "client")
        rows = {n: validation.rows(a, f"array {n!r}") for n, a in arrays.items()}
        lengths = {n: len(a) for n, a in rows.items()} | {"client": len(owner)}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"arrays have different lengths {lengths}; give every example one "
                "row in each array and one client id."
            )
        if len(owner) == 0:
            raise ValueError("arrays are empty; pass at least one example.")
        ids, index, sizes = np.unique(owner, return_inverse=True, return_counts=True)
        order = np.argsort(index.reshape(-1), kind="stable")
        if np.array_equal(order, np.arange(len(order))):
            # already grouped: keep memory-mapped leaves as they are
            order = slice(None)
        return cls(
            arrays={n: a[order] for n, a in rows.items()},
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            client_ids=ids,
        )

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        client: str,
        label: str,
        features: Sequence[str] | None = None,
    ) -> "FederatedData":
        """Builds from a pandas, polars or pyarrow table, or a mapping of columns.

        Args:
            frame: one row per example. None of these libraries is required.
            client: the column with the client ids.
            label: the column that becomes `"y"`.
            features: the columns that become `"x"`, (num_examples, len(features))
                float32; all others if not given.
        """
        from jaxfed.data import _tables

        arrays, owner = _tables.split(frame, client, label, features)
        return cls.from_arrays(arrays, client=owner)

    @classmethod
    def from_csv(
        cls,
        path: Any,
        *,
        client: str,
        label: str,
        features: Sequence[str] | None = None,
    ) -> "FederatedData":
        """Builds from a CSV file with a header line; otherwise as `from_frame`."""
        from jaxfed.data import _tables

        frame = _tables.read_csv(path, client)
        return cls.from_frame(frame, client=client, label=label, features=features)

    @classmethod
    def open(cls, directory: Any) -> "FederatedData":
        """Opens what `save` wrote; arrays stay on disk and are memory-mapped."""
        from jaxfed.data import _files

        return cls(**_files.open_parts(directory))

    def save(self, directory: Any) -> None:
        """Writes one `.npy` file per array into a new directory."""
        from jaxfed.data import _files

        _files.save_parts(self, directory)

    @property
    def num_clients(self) -> int:
        """How many clients there are."""
        return len(self.client_ids)

    @property
    def num_examples(self) -> int:
        """How many examples all clients have together."""
        return int(self.offsets[-1])

    @property
    def client_sizes(self) -> np.ndarray:
        """(num_clients,) int64: examples per client."""
        return np.diff(self.offsets)

    def client(self, client_id: Any) -> dict[str, np.ndarray]:
        """Returns one client's arrays (views, not copies)."""
        i = int(self._positions([client_id])[0])
        rows = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return {name: array[rows] for name, array in self.arrays.items()}

    def select(self, client_ids: Iterable[Any]) -> "FederatedData":
        """Returns the named clients, in the given order."""
        return self._take(self._positions(client_ids))

    def split_clients(
        self, *, test: float, seed: int
    ) -> tuple["FederatedData", "FederatedData"]:
        """Splits into train and test **clients**; no client is in both.

        Splitting rows instead would put one person's records on both sides and
        measure memory rather than learning.

        Args:
            test: the share of clients to hold out, strictly between 0 and 1.
            seed: an integer; the same seed gives the same split.
        """
        check.open_probability("0.2 holds out one client in five", test=test)
        check.seed(seed=seed)
        count = round(test * self.num_clients)
        if not 0 < count < self.num_clients:
            raise ValueError(
                f"test={test} of {self.num_clients} clients leaves "
                f"{self.num_clients - count} to train on and {count} to test on, and "
                "both need at least one; pass another share or more clients."
            )
        order = np.random.default_rng(seed).permutation(self.num_clients)
        return self._take(np.sort(order[count:])), self._take(np.sort(order[:count]))

    def where(self, mask: Any) -> "FederatedData":
        """Keeps the examples where `mask` holds; clients left without any are dropped.

        Args:
            mask: (num_examples,) bool, or the name of a bool array of the data, which
                is then left out.
        """
        arrays = dict(self.arrays)
        if isinstance(mask, str):
            check.one_of(arrays, mask=mask)
        keep = np.asarray(arrays.pop(mask) if isinstance(mask, str) else mask)
        if keep.dtype != bool or keep.shape != (self.num_examples,):
            raise ValueError(
                f"mask must be ({self.num_examples},) bool, got {keep.shape} "
                f"{keep.dtype}; compare an array with a value to make one."
            )
        sizes = np.add.reduceat(keep, self.offsets[:-1], dtype=np.int64)
        stay = sizes > 0
        return FederatedData(
            arrays={name: array[keep] for name, array in arrays.items()},
            offsets=np.concatenate([[0], np.cumsum(sizes[stay])]),
            client_ids=self.client_ids[stay],
            columns={name: array[stay] for name, array in self.columns.items()},
        )

    def statistics(self, label: str = "y") -> dict[str, Any]:
        """Returns exact facts about the clients, for simulations. Private.

        Returns:
            `sizes`: minimum, median, mean and maximum of examples per client;
            `labels` and `label_counts` (num_clients, num_labels) where the array
            `label` holds integers.
        """
        sizes = self.client_sizes
        facts: dict[str, Any] = {
            "num_clients": self.num_clients,
            "num_examples": self.num_examples,
            "sizes": {
                "minimum": int(sizes.min()),
                "median": float(np.median(sizes)),
                "mean": float(sizes.mean()),
                "maximum": int(sizes.max()),
            },
        }
        values = self.arrays.get(label)
        if values is not None and values.dtype.kind in "biu" and values.ndim == 1:
            labels, index = np.unique(values, return_inverse=True)
            owner = np.repeat(np.arange(self.num_clients), sizes)
            counts = np.zeros((self.num_clients, len(labels)), np.int64)
            np.add.at(counts, (owner, index), 1)
            facts |= {"labels": labels, "label_counts": counts}
        return facts

    def __repr__(self) -> str:
        sizes = self.client_sizes
        arrays = ", ".join(
            f"{name}: {array.dtype}{list(array.shape[1:])}"
            for name, array in self.arrays.items()
        )
        return (
            f"FederatedData({self.num_clients:,} clients, {self.num_examples:,} "
            f"examples, {sizes.min()} to {sizes.max()} a client; {arrays})"
        )

    def _positions(self, client_ids: Iterable[Any]) -> np.ndarray:
        if isinstance(client_ids, str) or not isinstance(client_ids, Iterable):
            raise TypeError(
                f"client_ids must be a list of ids, got {client_ids!r}; pass "
                f"[{client_ids!r}]."
            )
        wanted = list(client_ids)
        order = np.argsort(self.client_ids, kind="stable")
        known = self.client_ids[order]
        kind = str if known.dtype.kind == "U" else numbers.Real
        found = []
        for client in wanted:
            same_kind = isinstance(client, kind)
            i = int(np.searchsorted(known, client)) if same_kind else len(known)
            if i == len(known) or known[i] != client:
                raise ValueError(
                    f"there is no client {validation.shown(client)}; ids look like "
                    f"{validation.shown(self.client_ids[0])} (see data.client_ids)."
                )
            found.append(order[i])
        return np.array(found, np.int64)

    def _take(self, positions: np.ndarray) -> "FederatedData":
        sizes = self.client_sizes[positions]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        first = np.repeat(self.offsets[positions] - offsets[:-1], sizes)
        rows = first + np.arange(offsets[-1])
        return FederatedData(
            arrays={name: array[rows] for name, array in self.arrays.items()},
            offsets=offsets,
            client_ids=self.client_ids[positions],
            columns={name: array[positions] for name, array in self.columns.items()},
        )
