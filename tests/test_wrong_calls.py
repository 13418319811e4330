"""What a newcomer gets wrong, and what the library answers: value, rule, remedy."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfed as jf
from jaxfed.data import FederatedData
from jaxfed.evaluation import central, federated
from tests.problems import FEATURES, logistic_loss, logistic_params, ragged_data

SIZES = (3, 1, 2)


def data():
    return ragged_data(SIZES)


def float_labels():
    arrays = data().arrays
    clients = np.repeat(np.arange(len(SIZES)), SIZES)
    labels = arrays["y"].astype(np.float32)
    return FederatedData.from_arrays({"x": arrays["x"], "y": labels}, client=clients)


def wide_data():
    rows = np.ones((3, FEATURES + 1), np.float32)
    arrays = {"x": rows, "y": np.zeros(3, np.int32)}
    return FederatedData.from_arrays(arrays, client=[0, 1, 2])


def softmax_loss(params, batch, key):
    del key
    outputs = batch["x"] @ params["w"]
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"])
    return losses.mean(), {}


def scores(params, rows):
    return rows["x"] @ params["w"] + params["b"]


def sgd(loss=logistic_loss, optimizer=None, **options):
    options = {"batch_size": 2, "epochs": 1} | options
    return jf.clients.sgd(loss, optimizer or optax.sgd(0.1), **options)


def fedavg(loss=logistic_loss, population=3):
    sampling = jf.sampling.Full(population=population)
    return jf.algorithms.fedavg(sgd(loss), jf.privacy.none(sampling=sampling))


def simulate(algorithm=None, clients=None, **options):
    options = {
        "params": logistic_params(),
        "rounds": 1,
        "seed": 0,
        "progress": False,
    } | options
    return jf.simulate(algorithm or fedavg(), clients or data(), **options)


def private(**parts):
    parts = {
        "sampling": jf.sampling.Full(population=100),
        "clipping": jf.clipping.Fixed(norm=1.0),
        "noise": jf.noise.Gaussian(multiplier=1.0),
    } | parts
    return jf.privacy.central(**parts)


def calibrated(epsilon=1.0, delta=1e-5, rounds=2):
    return private().calibrated(epsilon=epsilon, delta=delta, rounds=rounds)


def noise_with(key):
    clipped = jf.typing.ClippedSum(
        total=jnp.ones(2, jnp.int32), step=jnp.float32(1), levels=1
    )
    return jf.noise.Gaussian(multiplier=1.0).release(clipped, key=key)


def params_with(**leaves):
    return simulate(params=logistic_params() | leaves)


def evaluated_by(predict, **options):
    options = {"accuracy": jf.metrics.accuracy} | options
    return simulate(evaluate=central(predict, data(), **options))


def save_twice(directory):
    data().save(directory)
    data().save(directory)


def table(**columns):
    frame = {"person": [1, 1], "age": [30, 40], "sick": [0, 1]} | columns
    return FederatedData.from_frame(frame, client="person", label="sick")


def csv(directory, text):
    path = directory / "table.csv"
    path.write_text(text)
    return FederatedData.from_csv(path, client="person", label="sick")


def linen_batch_norm():
    from flax import linen

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.BatchNorm(use_running_average=False)(linen.Dense(2)(x))

    model = Model()
    variables = model.init(jax.random.key(0), jnp.ones((1, FEATURES)))
    loss = jf.clients.linen_loss(model, optax.softmax_cross_entropy_with_integer_labels)
    return simulate(fedavg(loss), params=variables["params"])


def nnx_batch_norm():
    from flax import nnx

    streams = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(FEATURES, 2, rngs=streams), nnx.BatchNorm(2, rngs=streams)
    )
    return jf.clients.nnx_loss(model, optax.softmax_cross_entropy_with_integer_labels)


def case(name, call, error, *parts):
    """One wrong call and the parts of its message, in their order."""
    return pytest.param(call, error, parts, id=name)


KEY_REMEDY = "keys.simulated(seed)"
SEED_RULE = "seed must be an integer with 0 <= seed < 2**64"
BATCH = f"x: float32[2, {FEATURES}]"
BATCH_REMEDY = "check the shapes and dtypes of model and data"
PREDICT_REMEDY = "check the names and shapes of model and data"

MODEL_AND_LOSS = [
    case(
        "features of another width than the model's",
        lambda _: simulate(clients=wide_data()),
        ValueError,
        f"loss_fn fails on a batch of {{x: float32[2, {FEATURES + 1}]",
        f"got ({FEATURES + 1},) and ({FEATURES},)",
        BATCH_REMEDY,
    ),
    case(
        "float labels for a loss of integer labels",
        lambda _: simulate(
            fedavg(softmax_loss),
            float_labels(),
            params={"w": jnp.ones((FEATURES, 2))},
        ),
        ValueError,
        "y: float32[2]",
        "integer",
        "got float32",
        BATCH_REMEDY,
    ),
    case(
        "outputs of the wrong size",
        lambda _: simulate(fedavg(softmax_loss), params={"w": jnp.ones(FEATURES)}),
        ValueError,
        f"loss_fn fails on a batch of {{{BATCH}",
        BATCH_REMEDY,
    ),
    case(
        "a loss per row",
        lambda _: simulate(fedavg(lambda p, b, key: (scores(p, b), {}))),
        ValueError,
        "the loss must be one number, got float32[2]",
        "return its mean, for example loss.mean()",
    ),
    case(
        "a loss without metrics",
        lambda _: simulate(fedavg(lambda p, b, key: scores(p, b).mean())),
        ValueError,
        "loss_fn must return (loss, metrics), got float32[]",
        "write `return loss, {}`",
    ),
    case(
        "an integer loss",
        lambda _: simulate(fedavg(lambda p, b, key: (b["y"].sum(), {}))),
        ValueError,
        "the loss must be floating-point, got int32",
        "differentiated",
    ),
    case(
        "a metric per row",
        lambda _: simulate(
            fedavg(lambda p, b, key: (scores(p, b).mean(), {"s": scores(p, b)}))
        ),
        ValueError,
        "metric 's' must be one number, got float32[2]",
        "return its mean over the batch",
    ),
    case(
        "a metric called loss",
        lambda _: simulate(fedavg(lambda p, b, key: (0.0 * p["b"], {"loss": p["b"]}))),
        ValueError,
        "metrics must not have the name 'loss'",
        "is recorded under that name anyway",
    ),
    case(
        "a loss whose metrics are None",
        lambda _: simulate(fedavg(lambda p, b, key: (0.0 * p["b"], None))),
        ValueError,
        "metrics must be a dict of numbers, got NoneType",
        "return loss, {}",
    ),
    case(
        "an evaluation that returns a number",
        lambda _: simulate(fedavg(), evaluate=lambda params: 0.5),
        TypeError,
        "evaluate_result must be a dict, got float",
        "return for example",
    ),
    case(
        "a callback that is not in a list",
        lambda _: simulate(fedavg(), callbacks=lambda history: True),
        TypeError,
        "callbacks must be a list or tuple, got function",
        "pass [callback]",
    ),
    case(
        "a loss that takes no key",
        lambda _: simulate(fedavg(lambda p, b: (scores(p, b).mean(), {}))),
        ValueError,
        "takes 2 positional arguments but 3 were given",
        "loss_fn must accept (params, batch, key)",
    ),
    case(
        "a loss that is no function",
        lambda _: sgd(loss=0.5),
        TypeError,
        "loss_fn must be a function, got float",
        "write (params, batch, key) -> (loss, metrics)",
    ),
    case(
        "batch normalisation in linen",
        lambda _: linen_batch_norm(),
        ValueError,
        "the module keeps batch_stats beside its parameters",
        "use GroupNorm or LayerNorm instead",
    ),
    case(
        "batch normalisation in nnx",
        lambda _: nnx_batch_norm(),
        ValueError,
        "the model keeps batch statistics",
        "use GroupNorm or LayerNorm instead",
    ),
    case(
        "both epochs and steps",
        lambda _: sgd(epochs=1, steps=1),
        ValueError,
        "exactly one of epochs and steps must be given, got both",
        "pass for example epochs=5",
    ),
    case(
        "neither epochs nor steps",
        lambda _: sgd(epochs=None),
        ValueError,
        "exactly one of epochs and steps must be given, got neither",
        "pass for example epochs=5",
    ),
    case(
        "batches of nothing",
        lambda _: sgd(batch_size=0),
        ValueError,
        "batch_size must be an integer >= 1, got 0",
    ),
    case(
        "a batch size with a fraction",
        lambda _: sgd(batch_size=2.0),
        ValueError,
        "batch_size must be an integer >= 1, got 2.0",
    ),
    case(
        "epochs=0",
        lambda _: sgd(epochs=0),
        ValueError,
        "epochs must be an integer >= 1, got 0",
    ),
    case(
        "a learning rate for an optimizer",
        lambda _: sgd(optimizer=0.1),
        TypeError,
        "optimizer must be an optax optimizer, got 0.1",
        "optax.sgd(0.1)",
    ),
    case(
        "a constructor for an optimizer",
        lambda _: sgd(optimizer=optax.sgd),
        TypeError,
        "optimizer must be an optax optimizer, got <function",
        "optax.sgd(0.1)",
    ),
    case(
        "local work that is a function",
        lambda _: jf.algorithms.fedavg(logistic_loss, private()),
        TypeError,
        "local must be a LocalWork, got function",
        "clients.sgd(...)",
    ),
    case(
        "no privacy left unsaid",
        lambda _: jf.algorithms.fedavg(sgd(), None),
        TypeError,
        "privacy must be a privacy object, got None",
        "privacy.none(...) to run without",
    ),
    case(
        "a learning rate for a server optimizer",
        lambda _: jf.algorithms.fedavg(sgd(), private(), server_optimizer=0.1),
        TypeError,
        "server_optimizer must be an optax optimizer, got 0.1",
        "optax.adam(0.01)",
    ),
]

PRIVACY = [
    case(
        "rate above 1",
        lambda _: jf.sampling.Poisson(population=10, rate=2),
        ValueError,
        "rate must be in (0, 1], got 2",
        "the share of clients in a round",
    ),
    case(
        "rate 0",
        lambda _: jf.sampling.Poisson(population=10, rate=0),
        ValueError,
        "rate must be in (0, 1], got 0",
        "the share of clients in a round",
    ),
    case(
        "cap below the mean cohort",
        lambda _: jf.sampling.Poisson(population=100, rate=0.5, cap=10),
        ValueError,
        "cap must be >= population * rate = 50, got 10",
        "leave it out",
    ),
    case(
        "cap above the population",
        lambda _: jf.sampling.Poisson(population=100, rate=0.5, cap=101),
        ValueError,
        "cap must be <= population = 100, got 101",
        "cannot hold more clients than exist",
    ),
    case(
        "a misspelt keyword",
        lambda _: jf.sampling.Poisson(population=100, rat=0.5),
        TypeError,
        "unexpected keyword argument 'rat'",
    ),
    case(
        "more clients than exist",
        lambda _: jf.sampling.FixedSize(population=5, size=10),
        ValueError,
        "size must be <= population = 5, got 10",
        "cannot hold more clients than exist",
    ),
    case(
        "negative noise",
        lambda _: jf.noise.Gaussian(multiplier=-1.0),
        ValueError,
        "multiplier must be >= 0, got -1.0",
        "calibrate one",
    ),
    case(
        "noise that is not a number",
        lambda _: jf.noise.Gaussian(multiplier=float("nan")),
        ValueError,
        "multiplier must be a finite number, got nan",
        "calibrate one",
    ),
    case(
        "noise in words",
        lambda _: jf.noise.Gaussian(multiplier="1"),
        ValueError,
        "multiplier must be a finite number, got '1'",
        "calibrate one",
    ),
    case(
        "a clip of nothing",
        lambda _: jf.clipping.Fixed(norm=0),
        ValueError,
        "norm must be > 0, got 0",
        "between 0.01 and 10",
    ),
    case(
        "a clip without a name",
        lambda _: jf.clipping.Fixed(1.0),
        TypeError,
        "takes 1 positional argument but 2 were given",
    ),
    case(
        "a changed clip",
        lambda _: setattr(jf.clipping.Fixed(norm=1.0), "norm", 2.0),
        dataclasses.FrozenInstanceError,
        "cannot assign to field 'norm'",
    ),
    case(
        "noise where clipping belongs",
        lambda _: private(clipping=jf.noise.Gaussian(multiplier=1.0)),
        TypeError,
        "clipping must be a",
        "got Gaussian",
        "clipping.Fixed(norm=...)",
    ),
    case(
        "a number where clipping belongs",
        lambda _: private(clipping=1.0),
        TypeError,
        "clipping must be a",
        "got float",
        "clipping.Fixed(norm=...)",
    ),
    case(
        "a rate where sampling belongs",
        lambda _: private(sampling=0.1),
        TypeError,
        "sampling must be a Sampler, got float",
        "sampling.Poisson(population=..., rate=0.1)",
    ),
    case(
        "correlated noise without a horizon",
        lambda _: private(noise=jf.noise.BLT(multiplier=1.0)),
        ValueError,
        "rounds must be an integer >= 1, got None",
        "pass how many rounds you will run",
    ),
    case(
        "delta 0",
        lambda _: calibrated(delta=0),
        ValueError,
        "delta must be strictly between 0 and 1, got 0",
    ),
    case(
        "delta 1",
        lambda _: calibrated(delta=1),
        ValueError,
        "delta must be strictly between 0 and 1, got 1",
    ),
    case(
        "delta above one in the population",
        lambda _: calibrated(delta=0.1),
        ValueError,
        "delta must be < 1 / population = 0.01, got 0.1",
        "would permit publishing a client or an example outright",
    ),
    case(
        "epsilon 0",
        lambda _: calibrated(epsilon=0),
        ValueError,
        "epsilon must be > 0, got 0",
    ),
    case(
        "negative epsilon",
        lambda _: calibrated(epsilon=-1.0),
        ValueError,
        "epsilon must be > 0, got -1.0",
    ),
    case(
        "a budget for no rounds",
        lambda _: calibrated(rounds=0),
        ValueError,
        "rounds must be an integer >= 1, got 0",
    ),
    case(
        "epsilon of an unknown number of rounds",
        lambda _: private().epsilon(),
        ValueError,
        "epsilon needs rounds, got None",
        "privacy.epsilon(rounds=100, delta=1e-5)",
    ),
    case(
        "a misspelt relation",
        lambda _: private().sensitivity("replace-one"),
        ValueError,
        "relation must be one of 'zero_out', 'replace_one', got 'replace-one'",
        "did you mean 'replace_one'?",
    ),
    case(
        "a misspelt weighting",
        lambda _: jf.privacy.none(
            sampling=jf.sampling.Full(population=5), weighting="example"
        ),
        ValueError,
        "weighting must be one of 'examples', 'clients', got 'example'",
        "did you mean 'examples'?",
    ),
    case(
        "a picture of no noise",
        lambda _: fedavg().aggregator.plot_tradeoff(),
        ValueError,
        "NoPrivacy adds no noise",
        "use privacy.central(...) with a positive one",
    ),
    case(
        "a path where JSON belongs",
        lambda _: jf.privacy.from_json("privacy.json"),
        ValueError,
        "text must be JSON, got 'privacy.json'",
        "not a path",
    ),
]

KEYS = [
    case(
        "an integer for noise",
        lambda _: noise_with(0),
        TypeError,
        "key must be one typed PRNG key, got 0",
        KEY_REMEDY,
    ),
    case(
        "an integer for sampling",
        lambda _: jf.sampling.Full(population=5).draw(0, key=0),
        TypeError,
        "key must be one typed PRNG key, got 0",
        KEY_REMEDY,
    ),
    case(
        "an old key",
        lambda _: noise_with(jax.random.PRNGKey(0)),
        TypeError,
        "key must be one typed PRNG key, got an array of uint32",
        KEY_REMEDY,
    ),
    case(
        "two keys",
        lambda _: noise_with(jax.random.split(jax.random.key(0))),
        TypeError,
        "key must be one typed PRNG key, got 2 keys",
        KEY_REMEDY,
    ),
    case(
        "an integer for a round's key",
        lambda _: jf.keys.for_round(0, 3),
        TypeError,
        "key must be one typed PRNG key, got 0",
        KEY_REMEDY,
    ),
    case(
        "a client number out of range",
        lambda _: jf.keys.for_client(jax.random.key(0), 2**30),
        ValueError,
        "must be an integer in [0, 2**30), got 1073741824",
        "number clients from 0",
    ),
    *(
        case(
            f"seed {seed!r}",
            lambda _, seed=seed: simulate(seed=seed),
            ValueError,
            f"{SEED_RULE}, got {seed!r}",
            "pass for example seed=0",
        )
        for seed in (-1, 0.5, 2**64, None, "0", True)
    ),
]

RUNS = [
    case(
        "a population that is not the data's",
        lambda _: simulate(fedavg(population=7)),
        ValueError,
        "the sampler counts 7 clients but data has 3",
        "set population=data.num_clients",
    ),
    case(
        "arrays for data",
        lambda _: simulate(clients={"x": np.ones((3, 4))}),
        TypeError,
        "data must be a FederatedData, got dict",
        "FederatedData.from_clients",
    ),
    case(
        "local work for an algorithm",
        lambda _: simulate(sgd()),
        TypeError,
        "algorithm must be a FederatedAlgorithm, got LocalWork",
        "algorithms.fedavg(...)",
    ),
    case(
        "no rounds",
        lambda _: simulate(rounds=0),
        ValueError,
        "rounds must be an integer >= 1, got 0",
    ),
    case(
        "an integer parameter",
        lambda _: params_with(count=jnp.zeros(2, jnp.int32)),
        ValueError,
        "parameter 'count' must be a floating-point array, got int32",
        "keep counters and other integers out of params",
    ),
    case(
        "no parameters",
        lambda _: simulate(params={}),
        ValueError,
        "params has no arrays",
        "initialise the model first",
    ),
    case(
        "parameters with NaN",
        lambda _: params_with(w=jnp.full(FEATURES, jnp.nan)),
        ValueError,
        "parameter 'w' holds NaN or infinity",
        "initialise the model anew",
    ),
    case(
        "an evaluation that is no function",
        lambda _: simulate(evaluate=3),
        TypeError,
        "evaluate must be a function, got int",
        "evaluation.central(...)",
    ),
    case(
        "a callback that is no function",
        lambda _: simulate(callbacks=[3]),
        TypeError,
        "callback must be a function, got int",
        "write (history) -> bool",
    ),
    case(
        "a curve nobody recorded",
        lambda _: simulate().curve("acuracy"),
        ValueError,
        "no round recorded 'acuracy'",
        "known are loss, num_bytes_down, num_bytes_up",
    ),
    case(
        "a picture nobody recorded",
        lambda _: simulate().plot("acuracy"),
        ValueError,
        "no round recorded 'acuracy'",
        "known are loss",
    ),
    case(
        "predictions averaged over rows",
        lambda _: evaluated_by(lambda p, rows: scores(p, rows).mean()),
        ValueError,
        "predict must return one row of outputs per row, got shape () for 6 rows",
        "do not average over rows",
    ),
    case(
        "predictions from an unknown array",
        lambda _: evaluated_by(lambda p, rows: rows["X"]),
        ValueError,
        f"predict fails on rows of {{x: float32[6, {FEATURES}]",
        "'X'",
        PREDICT_REMEDY,
    ),
    case(
        "predictions that take only parameters",
        lambda _: evaluated_by(lambda p: p["w"]),
        ValueError,
        "takes 1 positional argument but 2 were given",
        "It must accept (params, rows)",
    ),
    case(
        "nothing to measure",
        lambda _: central(scores, data()),
        ValueError,
        "there is nothing to measure",
        "accuracy=metrics.accuracy",
    ),
    case(
        "a metric by name",
        lambda _: evaluated_by(scores, accuracy="accuracy"),
        TypeError,
        "accuracy must be a function, got str",
        "pass one of jaxfed.metrics",
    ),
    case(
        "labels of another name",
        lambda _: evaluated_by(scores, labels="label"),
        ValueError,
        "labels must be one of the arrays ['x', 'y'], got 'label'",
        "name the array that holds them",
    ),
    case(
        "groups of another name",
        lambda _: federated(
            scores, data(), groups="ward", accuracy=jf.metrics.accuracy
        ),
        ValueError,
        "groups must be one of the columns [], got 'ward'",
        "give the data such a column",
    ),
    case(
        "a federated evaluation of arrays",
        lambda _: federated(scores, {"x": np.ones(3)}, auc=jf.metrics.auc),
        TypeError,
        "data must be a FederatedData, got dict",
        "use evaluation.central for plain arrays",
    ),
    case(
        "an evaluation of nothing",
        lambda _: central(
            scores, {"x": np.ones((0, 4)), "y": np.ones(0)}, auc=jf.metrics.auc
        ),
        ValueError,
        "arrays must have one length of at least 1, got {'x': 0, 'y': 0}",
        "one row in each array",
    ),
    case(
        "labels of -1 and 1",
        lambda _: jf.metrics.accuracy(np.array([-0.3, 0.2]), np.array([-1, 1])),
        ValueError,
        "labels must be whole numbers from 0 to 1, got -1",
        "renumber the classes from 0",
    ),
    case(
        "area under the curve of three classes",
        lambda _: jf.metrics.auc(np.ones((3, 3)), np.arange(3)),
        ValueError,
        "auc needs one score per row, got outputs of shape (3, 3)",
        "two classes only",
    ),
]

DATA = [
    case(
        "no clients",
        lambda _: FederatedData.from_clients({}),
        ValueError,
        "clients is empty",
        "pass at least one client",
    ),
    case(
        "no rows",
        lambda _: FederatedData.from_arrays({"x": np.zeros((0, 3))}, client=[]),
        ValueError,
        "arrays are empty",
        "pass at least one example",
    ),
    case(
        "a list of clients",
        lambda _: FederatedData.from_clients([np.ones(3)]),
        TypeError,
        "clients must be a Mapping, got list",
        "pass {client_id: {name: array}}",
    ),
    case(
        "clients of bare arrays",
        lambda _: FederatedData.from_clients({"a": np.ones(3)}),
        ValueError,
        "client 'a' must be a mapping of arrays, got ndarray",
        'pass {"x": array, "y": array}',
    ),
    case(
        "NaN",
        lambda _: FederatedData.from_clients({"a": {"x": [1.0, float("nan")]}}),
        ValueError,
        "array 'x' of client 'a' has NaN or infinity in its row 1",
        "drop the row or fill the value",
    ),
    case(
        "infinity",
        lambda _: FederatedData.from_clients({7: {"x": [1.0, float("inf")]}}),
        ValueError,
        "array 'x' of client 7 has NaN or infinity in its row 1",
        "drop the row or fill the value",
    ),
    case(
        "words for features",
        lambda _: FederatedData.from_clients({"a": {"x": ["f", "m"]}}),
        ValueError,
        "array 'x' has dtype <U1",
        "encode words as integers first",
    ),
    case(
        "rows of different lengths",
        lambda _: FederatedData.from_clients({"a": {"x": [[1, 2], [3]]}}),
        ValueError,
        "array 'x' of client 'a' cannot become an array",
        "give all rows one shape",
    ),
    case(
        "arrays of different lengths",
        lambda _: FederatedData.from_clients({"a": {"x": np.ones(2), "y": np.ones(3)}}),
        ValueError,
        "client 'a' has arrays of different lengths {'x': 2, 'y': 3}",
        "give every example one row in each array",
    ),
    case(
        "fewer ids than rows",
        lambda _: FederatedData.from_arrays({"x": np.ones(3)}, client=[0, 1]),
        ValueError,
        "arrays have different lengths {'x': 3, 'client': 2}",
        "one client id",
    ),
    case(
        "a client without examples",
        lambda _: FederatedData.from_clients(
            {"a": {"x": np.ones(2)}, "b": {"x": np.ones(0)}}
        ),
        ValueError,
        "client 'b' has no examples",
        "leave it out or give it at least one row",
    ),
    case(
        "a client given twice",
        lambda _: FederatedData(
            arrays={"x": np.ones(2)}, offsets=[0, 1, 2], client_ids=["a", "a"]
        ),
        ValueError,
        "client id 'a' occurs more than once",
        "merge its rows or give it two ids",
    ),
    case(
        "ids with a gap",
        lambda _: FederatedData.from_arrays({"x": np.ones(2)}, client=[1, np.nan]),
        ValueError,
        "client must hold integers or strings, got float and int",
        "once none is missing",
    ),
    case(
        "ids of two kinds",
        lambda _: FederatedData.from_clients(
            {1: {"x": np.ones(2)}, "1": {"x": np.ones(2)}}
        ),
        ValueError,
        "client_ids must hold integers or strings, got int and str",
        "convert them",
    ),
    case(
        "an unknown client",
        lambda _: data().select(["client-9"]),
        ValueError,
        "there is no client 'client-9'",
        "ids look like 'client-0'",
    ),
    case(
        "a number for a client's name",
        lambda _: data().select([1]),
        ValueError,
        "there is no client 1; ids look like 'client-0'",
        "see data.client_ids",
    ),
    case(
        "a name for a client's number",
        lambda _: wide_data().select(["1"]),
        ValueError,
        "there is no client '1'; ids look like 0",
        "see data.client_ids",
    ),
    case(
        "one client where a list belongs",
        lambda _: data().select("client-1"),
        TypeError,
        "client_ids must be a list of ids, got 'client-1'",
        "pass ['client-1']",
    ),
    case(
        "a split of one client",
        lambda _: ragged_data((4,)).split_clients(test=0.5, seed=0),
        ValueError,
        "test=0.5 of 1 clients leaves",
        "both need at least one",
        "pass another share or more clients",
    ),
    case(
        "a split with nothing left to train on",
        lambda _: data().split_clients(test=1.0, seed=0),
        ValueError,
        "test must be strictly between 0 and 1, got 1.0",
        "one client in five",
    ),
    case(
        "a split with an odd seed",
        lambda _: data().split_clients(test=0.5, seed=None),
        ValueError,
        f"{SEED_RULE}, got None",
        "pass for example seed=0",
    ),
    case(
        "an unknown mask",
        lambda _: data().where("adult"),
        ValueError,
        "mask must be one of 'x', 'y', got 'adult'",
    ),
    case(
        "a short mask",
        lambda _: data().where([True, False]),
        ValueError,
        "mask must be (6,) bool, got (2,) bool",
        "compare an array with a value",
    ),
    case(
        "a column of another length",
        lambda _: FederatedData.from_clients(
            {"a": {"x": np.ones(2)}}, columns={"ward": [1, 2]}
        ),
        ValueError,
        "column 'ward' has 2 values for 1 clients",
        "give one value per client",
    ),
    case(
        "a save over something else",
        save_twice,
        ValueError,
        "is not empty",
        "save into a new directory",
    ),
    case(
        "an open of nothing",
        FederatedData.open,
        ValueError,
        "holds no complete federated data (offsets.npy is missing)",
        "write it with data.save(directory)",
    ),
    case(
        "a table without the column",
        lambda _: FederatedData.from_frame(
            {"person": [1], "age": [3], "sick": [0]}, client="persn", label="sick"
        ),
        ValueError,
        "there is no column 'persn'",
        "did you mean 'person'?",
    ),
    case(
        "a column of words",
        lambda _: table(age=["old", "young"]),
        ValueError,
        "column 'age' holds 'old', which is no number",
        "encode it as numbers or leave the column out",
    ),
    case(
        "one feature where a list belongs",
        lambda _: FederatedData.from_frame(
            {"person": [1], "age": [3], "sick": [0]},
            client="person",
            label="sick",
            features="age",
        ),
        TypeError,
        "features must be a list of column names, got 'age'",
        "pass ['age']",
    ),
    case(
        "the label among the features",
        lambda _: FederatedData.from_frame(
            {"person": [1], "age": [3], "sick": [0]},
            client="person",
            label="sick",
            features=["age", "sick"],
        ),
        ValueError,
        "features must not hold the label 'sick'",
        "leave it out",
    ),
    case(
        "an array for a table",
        lambda _: FederatedData.from_frame(np.ones((2, 3)), client="a", label="b"),
        TypeError,
        "frame must be a table with named columns, got ndarray",
        "pass a pandas, polars or pyarrow table or a mapping of columns",
    ),
    case(
        "a file with a short line",
        lambda folder: csv(folder, "person,age,sick\n1,30,0\n1,40\n"),
        ValueError,
        "has 2 values in example 2 but 3 columns",
        "mend that line",
    ),
    case(
        "a file with a header only",
        lambda folder: csv(folder, "person,age,sick\n\n"),
        ValueError,
        "has no examples",
        "it needs a header and one line",
    ),
    case(
        "a file with a repeated column",
        lambda folder: csv(folder, "person,age,age,sick\n1,30,31,0\n"),
        ValueError,
        "has two columns 'age'",
        "rename one of them",
    ),
    case(
        "a file with a missing value",
        lambda folder: csv(folder, "person,age,sick\n1,30,0\n1,,0\n"),
        ValueError,
        "array 'x' of client 1 has NaN or infinity in its row 1",
        "drop the row or fill the value",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "parts"), [*MODEL_AND_LOSS, *PRIVACY, *KEYS, *RUNS, *DATA]
)
def test_message_says_value_rule_and_remedy(call, error, parts, tmp_path):
    pattern = "(?s)" + ".*".join(map(re.escape, parts))
    with pytest.raises(error, match=pattern) as caught:
        call(tmp_path)
    assert type(caught.value) is error  # not some subclass that happens to match
    assert not re.search(r"np\.\w+\(|jax/_src", str(caught.value))


def test_the_calls_next_to_the_wrong_ones_are_right(tmp_path):
    """The helpers above fail for the reason they name, not for another one."""
    history = simulate(evaluate=central(scores, data(), auc=jf.metrics.auc))
    assert len(history.rounds) == 1
    assert calibrated().epsilon() <= 1.0
    assert noise_with(jf.keys.simulated(0)).value.shape == (2,)
    params = {"w": jnp.ones((FEATURES, 2))}
    assert simulate(fedavg(softmax_loss), params=params).rounds[0].round == 1
    data().save(tmp_path / "new")
    assert table().num_examples == 2
    assert csv(tmp_path, "person,age,sick\n1,30,0\n").num_examples == 1
