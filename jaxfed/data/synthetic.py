"""Synthetic federated sets of the literature, made in NumPy from a seed.

Each gives `FederatedData` with arrays `x` (float32), `y` (int32) and `is_test` (bool,
the rows of each client held out as in the source).
"""

from collections.abc import Sequence

import numpy as np

from jaxfed import _check as check
from jaxfed.data._federated_data import FederatedData

_DIMENSIONS, _CLASSES = 60, 10
_FEDPROX_TRAIN, _LEAF_TRAIN = 0.9, 0.6
_LEAF_SPREAD = 0.1
_FCUBE_CLIENTS = 4


def fedprox_synthetic(
    alpha: float,
    beta: float,
    *,
    seed: int,
    num_clients: int = 30,
    sizes: Sequence[int] | None = None,
) -> FederatedData:
    """Returns Synthetic(alpha, beta) of FedProx: models and features differ.

    Client k has n_k = int(LogNormal(4, 2)) + 50 rows, u_k ~ N(0, alpha) and
    B_k ~ N(0, beta); v_k ~ N(B_k, 1)^60; x ~ N(v_k, diag(j**-1.2)), j = 1 to 60;
    W_k ~ N(u_k, 1)^(60 x 10), b_k ~ N(u_k, 1)^10; y = argmax(x W_k + b_k). The last
    rows from int(0.9 n_k) on are test rows. As in the authors' code, alpha, beta,
    4 and 2 and all unit spreads are standard deviations. Li et al. 2020,
    arXiv:1812.06127, with the released generator of Synthetic(0, 0) to (1, 1).

    The sizes have a long tail (one client can own most rows) and sway accuracies
    more than the method does: pass `sizes` to compare with others.

    Args:
        alpha: >= 0, how much the clients' models differ in their mean.
        beta: >= 0, how much the clients' features differ in their mean.
        seed: an integer; the same seed gives the same set.
        num_clients: how many clients.
        sizes: (num_clients,) rows of each client, all >= 2, instead of drawing them.

    Returns:
        `x` (num_examples, 60), `y` 0 to 9, `is_test`; client ids 0 to
        num_clients - 1.

    Raises:
        ValueError: a negative spread, or sizes of another length or below 2.
    """
    check.non_negative(alpha=alpha)
    check.non_negative(beta=beta)
    generator = np.random.default_rng(check.seed(seed=seed))
    rows = _fedprox_sizes(generator, num_clients, sizes)
    model_mean = generator.normal(0, alpha, num_clients)
    feature_mean = generator.normal(0, beta, num_clients)
    clients = []
    for client, size in enumerate(rows):
        center = generator.normal(feature_mean[client], 1, _DIMENSIONS)
        weights = generator.normal(model_mean[client], 1, (_DIMENSIONS, _CLASSES))
        bias = generator.normal(model_mean[client], 1, _CLASSES)
        x = _features(generator, center, size)
        clients.append((x, np.argmax(x @ weights + bias, axis=1)))
    return _assemble(clients, _FEDPROX_TRAIN)


def fedprox_synthetic_iid(
    *, seed: int, num_clients: int = 30, sizes: Sequence[int] | None = None
) -> FederatedData:
    """Returns Synthetic-IID of FedProx: one model and centre 0 for all clients.

    W ~ N(0, 1)^(60 x 10) and b ~ N(0, 1)^10 once; x ~ N(0, diag(j**-1.2)); all else,
    arguments and result as in `fedprox_synthetic`.
    """
    generator = np.random.default_rng(check.seed(seed=seed))
    rows = _fedprox_sizes(generator, num_clients, sizes)
    weights = generator.normal(0, 1, (_DIMENSIONS, _CLASSES))
    bias = generator.normal(0, 1, _CLASSES)
    clients = []
    for size in rows:
        x = _features(generator, np.zeros(_DIMENSIONS), size)
        clients.append((x, np.argmax(x @ weights + bias, axis=1)))
    return _assemble(clients, _FEDPROX_TRAIN)


def leaf_synthetic(
    *,
    seed: int,
    num_clients: int = 1000,
    num_classes: int = 5,
    num_dimensions: int = 60,
    cluster_probabilities: Sequence[float] = (1.0,),
) -> FederatedData:
    """Returns LEAF's synthetic set: clients' models come from clusters.

    With S clusters: Q ~ N(0, 1)^((d + 1) x classes x S); cluster s has a scalar
    m_s ~ N(0, 1) and mu_s ~ N(m_s, 1)^S. A client draws its cluster s, a scalar
    B ~ N(0, 1), v ~ N(B, 1)^d, rows x ~ N(v, diag(j**-1.2)), u ~ N(mu_s, 0.1)^S and
    scores [1, x] (Q u) + N(0, 0.1) noise; it has min(int(LogNormal(3, 2)) + 5, 1000)
    rows, of which those from int(0.6 n) on are test rows. Caldas et al. 2018,
    arXiv:1812.01097. Numbers after the mean are standard deviations.

    Labels follow LEAF's code, not its text: before the argmax over classes the code
    divides the exponential of each score by the sum over the client's **rows** (the
    text's softmax over classes would not change the argmax), which evens out the
    classes within a client.

    Args:
        seed: an integer; the same seed gives the same set.
        num_clients: how many clients ("tasks").
        num_classes: how many labels.
        num_dimensions: d, how many features.
        cluster_probabilities: (S,) shares of the clusters, summing to 1.

    Returns:
        `x` (num_examples, d), `y`, `is_test`; client ids 0 to num_clients - 1; the
        column `cluster` of each client's cluster.

    Raises:
        ValueError: probabilities that are negative or do not sum to 1.
    """
    check.positive_integer(num_clients=num_clients)
    check.positive_integer(num_classes=num_classes)
    check.positive_integer(num_dimensions=num_dimensions)
    chances = np.asarray(cluster_probabilities, np.float64)
    if chances.ndim != 1 or not (chances >= 0).all() or abs(chances.sum() - 1) > 1e-9:
        raise ValueError(
            f"cluster_probabilities must sum to 1, got {cluster_probabilities}; pass "
            "for example (0.5, 0.5)."
        )
    generator = np.random.default_rng(check.seed(seed=seed))
    sizes = generator.lognormal(3, 2, num_clients).astype(np.int64) + 5
    shape = (num_dimensions + 1, num_classes, len(chances))
    basis = generator.normal(0, 1, shape)
    cluster_means = [
        generator.normal(generator.normal(0, 1), 1, len(chances)) for _ in chances
    ]
    clusters = generator.choice(len(chances), num_clients, p=chances)
    clients = []
    for size, cluster in zip(np.minimum(sizes, 1000), clusters, strict=True):
        center = generator.normal(generator.normal(0, 1), 1, num_dimensions)
        x = _features(generator, center, size)
        weights = basis @ generator.normal(cluster_means[cluster], _LEAF_SPREAD)
        scores = x @ weights[1:] + weights[0]
        scores = scores + generator.normal(0, _LEAF_SPREAD, scores.shape)
        clients.append((x, _leaf_labels(scores)))
    return _assemble(clients, _LEAF_TRAIN, {"cluster": clusters})


def fcube(
    *, seed: int, rows_per_client: int = 1000, num_test: int = 1000
) -> FederatedData:
    """Returns FCUBE: four clients see different corners of a cube, evenly labelled.

    Points of the cube [-1, 1]^3 have label 0 where the first coordinate is positive
    and 1 otherwise. The planes through 0 cut it into 8 corners; each client owns two
    that mirror each other in the origin. Its training rows are uniform in them, half
    of each label in turn. Test rows are uniform in the whole cube, and each belongs
    to the client that owns its corner. Li et al. 2022 (NIID-Bench), arXiv:2102.02079,
    with 4,000 training and 1,000 test rows.

    Args:
        seed: an integer; the same seed gives the same set.
        rows_per_client: training rows of each client.
        num_test: test rows of all clients together.

    Returns:
        `x` (num_examples, 3), `y` 0 or 1, `is_test`; client ids 0 to 3.
    """
    check.positive_integer(rows_per_client=rows_per_client)
    check.positive_integer(num_test=num_test)
    generator = np.random.default_rng(check.seed(seed=seed))
    train_client = np.repeat(np.arange(_FCUBE_CLIENTS), rows_per_client)
    y_train = np.tile(np.arange(rows_per_client) % 2, _FCUBE_CLIENTS)
    # the signs of the second and third coordinate where the first is positive
    corner = np.stack(
        [
            np.ones_like(train_client),
            1 - 2 * (train_client // 2),
            1 - 2 * (train_client % 2),
        ],
        axis=1,
    )
    x_train = generator.random(corner.shape) * corner * (1 - 2 * y_train[:, None])
    x_test = generator.random((num_test, 3)) * 2 - 1
    positive = x_test > 0
    mirrored = positive ^ ~positive[:, :1]
    test_client = 2 * ~mirrored[:, 1] + ~mirrored[:, 2]
    return FederatedData.from_arrays(
        {
            "x": np.concatenate([x_train, x_test]).astype(np.float32),
            "y": np.concatenate([y_train, ~positive[:, 0]]).astype(np.int32),
            "is_test": np.arange(len(x_train) + num_test) >= len(x_train),
        },
        client=np.concatenate([train_client, test_client]),
    )


def _fedprox_sizes(
    generator: np.random.Generator, num_clients: int, sizes: Sequence[int] | None
) -> np.ndarray:
    check.positive_integer(num_clients=num_clients)
    if sizes is None:
        return generator.lognormal(4, 2, num_clients).astype(np.int64) + 50
    given = np.asarray(sizes)
    if given.shape != (num_clients,) or given.dtype.kind not in "iu" or min(given) < 2:
        raise ValueError(
            f"sizes must be {num_clients} integers >= 2, got {sizes!r}; give one per "
            "client, enough for a training and a test row."
        )
    return given


def _features(
    generator: np.random.Generator, center: np.ndarray, size: int
) -> np.ndarray:
    """(size, dimensions) rows of N(center, diag(j**-1.2))."""
    stddev = np.arange(1, len(center) + 1) ** -0.6
    return center + stddev * generator.standard_normal((size, len(center)))


def _leaf_labels(scores: np.ndarray) -> np.ndarray:
    """Argmax over classes of scores normalised over the client's rows."""
    largest = scores.max(0)
    return np.argmax(scores - largest - np.log(np.exp(scores - largest).sum(0)), axis=1)


def _assemble(
    clients: list[tuple[np.ndarray, np.ndarray]],
    train: float,
    columns: dict[str, np.ndarray] | None = None,
) -> FederatedData:
    sizes = np.array([len(y) for _, y in clients])
    is_test = [np.arange(size) >= int(train * size) for size in sizes]
    return FederatedData(
        arrays={
            "x": np.concatenate([x for x, _ in clients]).astype(np.float32),
            "y": np.concatenate([y for _, y in clients]).astype(np.int32),
            "is_test": np.concatenate(is_test),
        },
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        client_ids=np.arange(len(clients)),
        columns=columns or {},
    )
