"""Partitions: which client owns which row of a set that has no natural clients.

Every function returns a client column, (num_examples,) int64 with values 0 to
`num_clients - 1`, for `FederatedData.from_arrays(arrays, client=column)`. Every row
has exactly one owner and every client owns at least one row: where a definition
leaves a client empty, it takes single rows from the client that then has most.

There are two different "Dirichlet" partitions in the literature, and papers that say
only "Dirichlet(0.5)" mean either. Both are here, each by its own name.
"""

import numpy as np

from jaxfed import _check as check
from jaxfed.data import _parts as parts_of

_NOISE_BLOCK_ROWS = 1 << 14


def iid(num_examples: int, *, num_clients: int, seed: int) -> np.ndarray:
    """Deals shuffled rows in equal parts (sizes differ by at most one).

    McMahan et al. 2017, arXiv:1602.05629, "IID"; "homogeneous" in NIID-Bench.

    Args:
        num_examples: how many rows there are.
        num_clients: how many clients to deal to.
        seed: an integer; the same seed gives the same partition.

    Returns:
        (num_examples,) int64.

    Raises:
        ValueError: fewer rows than clients.
    """
    generator = parts_of.start(num_examples, num_clients, seed)
    parts = np.array_split(generator.permutation(num_examples), num_clients)
    return parts_of.column(parts, num_examples)


def dirichlet_over_clients(
    labels: np.ndarray,
    *,
    num_clients: int,
    concentration: float,
    seed: int,
    min_examples: int = 1,
    self_balancing: bool = False,
) -> np.ndarray:
    """Label skew: every **class** is divided among the clients by a Dirichlet draw.

    For each class k, p_k ~ Dirichlet(concentration, ..., concentration) over the
    clients, and client j gets the share p_kj of the class's shuffled rows (cut at the
    floors of the cumulative shares). Client sizes differ too. Yurochkin et al. 2019,
    arXiv:1905.12022; Li et al. 2022 (NIID-Bench), arXiv:2102.02079.

    Args:
        labels: (num_examples,) integers or strings.
        num_clients: how many clients.
        concentration: > 0; the smaller, the more skew.
        seed: an integer; the same seed gives the same partition.
        min_examples: smaller clients take single rows from the one that has most.
            (The papers' code draws anew until all have 10.)
        self_balancing: as in NIID-Bench's code and unlike its text, a client that
            already has num_examples / num_clients rows gets none of further classes
            (where that leaves no share, the other clients share evenly).

    Returns:
        (num_examples,) int64.

    Raises:
        ValueError: fewer rows than `num_clients * min_examples`.
    """
    labels, generator = parts_of.labelled(labels, num_clients, seed)
    check.positive(concentration=concentration)
    check.positive_integer(min_examples=min_examples)
    parts_of.enough(len(labels), num_clients, min_examples)
    parts: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    sizes = np.zeros(num_clients)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(num_clients, float(concentration)))
        if self_balancing:
            is_open = sizes < len(labels) / num_clients
            shares = shares * is_open if (shares * is_open).any() else is_open
        for client, part in enumerate(parts_of.cut(rows, shares)):
            parts[client].append(part)
            sizes[client] += len(part)
    joined = [np.concatenate(part) for part in parts]
    return parts_of.column(parts_of.filled(joined, min_examples), len(labels))


def dirichlet_over_classes(
    labels: np.ndarray, *, num_clients: int, concentration: float, seed: int
) -> np.ndarray:
    """Label skew: every **client** draws its own class distribution; equal sizes.

    Client j draws q_j ~ Dirichlet(concentration * prior) over the classes, where
    prior is the share of each class in `labels` and sums to 1 (so with 10 even
    classes, concentration 1 is Dirichlet(0.1, ..., 0.1)). Then it draws its rows one
    by one without replacement: a class from q_j, restricted to the classes that still
    have rows, then one of its rows. Clients draw in turn, so the last ones take what
    is left. Where q_j is 0 on all that is left, the rest decides. Sizes differ by at
    most one. Hsu, Qi and Brown 2019, arXiv:1909.06335.

    Args:
        labels: (num_examples,) integers or strings.
        num_clients: how many clients.
        concentration: > 0; the smaller, the more skew.
        seed: an integer; the same seed gives the same partition.

    Returns:
        (num_examples,) int64.

    Raises:
        ValueError: fewer rows than clients.
    """
    labels, generator = parts_of.labelled(labels, num_clients, seed)
    check.positive(concentration=concentration)
    classes = [
        generator.permutation(np.flatnonzero(labels == label))
        for label in np.unique(labels)
    ]
    left = np.array([len(rows) for rows in classes])
    prior = left / left.sum()
    column = np.full(len(labels), -1)
    for client, size in enumerate(parts_of.even_sizes(len(labels), num_clients)):
        wanted = generator.dirichlet(concentration * prior)
        for index, count in enumerate(
            parts_of.draw_classes(generator, wanted, left, size)
        ):
            end = int(left[index])
            column[classes[index][end - count : end]] = client
            left[index] -= count
    return column


def shards(
    labels: np.ndarray, *, num_clients: int, shards_per_client: int = 2, seed: int
) -> np.ndarray:
    """The pathological partition: sorted by label, cut into shards, dealt at random.

    The rows, sorted by label, are cut into num_clients * shards_per_client parts of
    equal size (they differ by at most one), and each client gets shards_per_client of
    them. McMahan et al. 2017, arXiv:1602.05629, section 3.

    Args:
        labels: (num_examples,) integers or strings.
        num_clients: how many clients.
        shards_per_client: how many shards each client gets.
        seed: an integer; the same seed gives the same partition.

    Returns:
        (num_examples,) int64.

    Raises:
        ValueError: fewer rows than shards.
    """
    labels, generator = parts_of.labelled(labels, num_clients, seed)
    check.positive_integer(shards_per_client=shards_per_client)
    parts_of.enough(len(labels), num_clients, shards_per_client)
    order = np.argsort(labels, kind="stable")
    parts = np.array_split(order, num_clients * shards_per_client)
    column = np.empty(len(labels), np.int64)
    for position, shard in enumerate(generator.permutation(len(parts))):
        column[parts[shard]] = position // shards_per_client
    return column


def classes_per_client(
    labels: np.ndarray, *, num_clients: int, classes_per_client: int, seed: int
) -> np.ndarray:
    """Label skew "#C = k": each client has rows of only k classes.

    Client j owns class j mod num_classes and k - 1 others drawn at random without
    repetition; the shuffled rows of a class are divided equally among its owners.
    With fewer clients than classes, client j owns every class c with
    c mod num_clients = j before others are drawn, so that no row is left over.
    Li et al. 2022 (NIID-Bench), arXiv:2102.02079.

    Args:
        labels: (num_examples,) integers or strings.
        num_clients: how many clients.
        classes_per_client: k, at most the number of classes.
        seed: an integer; the same seed gives the same partition.

    Returns:
        (num_examples,) int64.

    Raises:
        ValueError: k is more than the number of classes, num_clients * k is less, or
            there are fewer rows than clients.
    """
    labels, generator = parts_of.labelled(labels, num_clients, seed)
    check.positive_integer(classes_per_client=classes_per_client)
    names, index = np.unique(labels, return_inverse=True)
    count = len(names)
    if not classes_per_client <= count <= num_clients * classes_per_client:
        raise ValueError(
            f"classes_per_client={classes_per_client} with num_clients={num_clients} "
            f"cannot share out {count} classes; it must be at most {count}, and at "
            f"least {-(-count // num_clients)} so that every class has an owner."
        )
    owners: list[list[int]] = [[] for _ in range(count)]
    for client in range(num_clients):
        own = list(range(client, count, num_clients)) or [client % count]
        others = generator.permutation(np.setdiff1d(np.arange(count), own))
        for owned in [*own, *others[: classes_per_client - len(own)]]:
            owners[owned].append(client)
    parts: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    for owned, clients in enumerate(owners):
        rows = generator.permutation(np.flatnonzero(index == owned))
        for client, part in zip(
            clients, np.array_split(rows, len(clients)), strict=True
        ):
            parts[client].append(part)
    joined = [np.concatenate(part) for part in parts]
    return parts_of.column(parts_of.filled(joined, 1), len(labels))


def quantity(
    num_examples: int,
    *,
    num_clients: int,
    concentration: float,
    seed: int,
    min_examples: int = 1,
) -> np.ndarray:
    """Quantity skew: client sizes from a Dirichlet draw, rows at random.

    p ~ Dirichlet(concentration, ..., concentration) over the clients; client j gets
    the share p_j of the shuffled rows (cut at the floors of the cumulative shares).
    Li et al. 2022 (NIID-Bench), arXiv:2102.02079.

    Args:
        num_examples: how many rows there are.
        num_clients: how many clients.
        concentration: > 0; the smaller, the more skew.
        seed: an integer; the same seed gives the same partition.
        min_examples: smaller clients take single rows from the one that has most.

    Returns:
        (num_examples,) int64.

    Raises:
        ValueError: fewer rows than `num_clients * min_examples`.
    """
    generator = parts_of.start(num_examples, num_clients, seed)
    check.positive(concentration=concentration)
    check.positive_integer(min_examples=min_examples)
    parts_of.enough(num_examples, num_clients, min_examples)
    rows = generator.permutation(num_examples)
    shares = generator.dirichlet(np.full(num_clients, float(concentration)))
    return parts_of.column(
        parts_of.filled(parts_of.cut(rows, shares), min_examples), num_examples
    )


def add_feature_noise(
    x: np.ndarray, client: np.ndarray, *, largest_stddev: float, seed: int
) -> np.ndarray:
    """Feature skew: Gaussian noise that grows with the client's index.

    The rows of client j of N (in sorted order, from 0) get independent noise of
    standard deviation largest_stddev * j / (N - 1): none for the first client,
    `largest_stddev` for the last. This is NIID-Bench's code; its text (Li et al.
    2022, arXiv:2102.02079) calls sigma * j / N the variance.

    Args:
        x: (num_examples, ...) float16, float32 or float64.
        client: (num_examples,) the client column.
        largest_stddev: >= 0, in the units of `x`.
        seed: an integer; the same seed gives the same noise.

    Returns:
        A new array of the shape and dtype of `x`.

    Raises:
        ValueError: `x` is not floating-point, or the lengths differ.
    """
    check.non_negative(largest_stddev=largest_stddev)
    x, client = np.asarray(x), np.asarray(client)
    if x.dtype.kind != "f":
        raise ValueError(
            f"x must be floating-point, got {x.dtype}; scale it to floats first, for "
            "example x.astype(np.float32) / 255."
        )
    if client.ndim != 1 or x.ndim == 0 or len(x) != len(client):
        raise ValueError(
            f"client has shape {client.shape} for x of shape {x.shape}; pass one "
            "client number per row of x."
        )
    generator = np.random.default_rng(check.seed(seed=seed))
    clients, index = np.unique(client, return_inverse=True)
    stddev = largest_stddev * index / max(len(clients) - 1, 1)
    noisy = x.copy()
    for start in range(0, len(x), _NOISE_BLOCK_ROWS):
        rows = slice(start, start + _NOISE_BLOCK_ROWS)
        scale = stddev[rows].reshape(-1, *[1] * (x.ndim - 1))
        noise = scale * generator.standard_normal(x[rows].shape)
        noisy[rows] = (x[rows] + noise).astype(x.dtype)
    return noisy
