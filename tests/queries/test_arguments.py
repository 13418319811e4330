"""What a newcomer gets wrong: value, rule, remedy."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfed as jf
from jaxfed import queries
from tests.queries.common import KEY, clients, mechanism

DATA = clients((2, 1, 3))
GOOD = mechanism(3)
MEAN = {"lower": -2.0, "upper": 3.0, "privacy": GOOD, "key": KEY}
COUNT = {"edges": [0, 1, 2], "privacy": GOOD, "key": KEY}


def square(params, rows):
    return {"square": (rows["x"][:, 0] - params) ** 2}


def ask(call, *arguments, **options):
    return lambda: call(*arguments, **options)


def mean(**options):
    return ask(queries.mean, DATA, "x", **(MEAN | options))


def histogram(**options):
    return ask(queries.histogram, DATA, "y", **(COUNT | options))


def quantile(probabilities=0.5, **options):
    return ask(queries.quantile, DATA, "x", probabilities, **(MEAN | options))


def evaluation(metric_fn=square, look=False, **options):
    settings = {"bounds": {"square": (0, 4)}, "privacy": GOOD, "looks": 1, "key": KEY}

    def call():
        found = queries.evaluation(metric_fn, DATA, **(settings | options))
        return found(jnp.float32(0)) if look else found

    return call


ADAPTIVE = dataclasses.replace(
    GOOD, clipping=jf.clipping.Adaptive(quantile=0.5, initial=1.0)
)
NONE = jf.privacy.none(sampling=jf.sampling.Full(population=3))
CASES = {
    "no data": (
        ask(queries.mean, {"x": np.ones(3)}, "x", **MEAN),
        r"data must be a FederatedData, got dict; build one",
    ),
    "no guarantee": (
        mean(privacy=NONE),
        r"privacy must be a Central, got NoPrivacy; pass privacy.central",
    ),
    "adaptive clip": (
        mean(privacy=ADAPTIVE),
        r"clipping must be a Fixed, got Adaptive; pass clipping.Fixed\(norm=...\), in",
    ),
    "no noise": (
        mean(privacy=mechanism(3, multiplier=0.0)),
        r"multiplier must be > 0, got 0; a query without noise publishes its clients",
    ),
    "population": (
        histogram(privacy=mechanism(4)),
        r"counts 4 clients but data has 3; set population=data.num_clients",
    ),
    "integer key": (mean(key=0), r"key must be one typed PRNG key, got 0"),
    "no such array": (
        ask(queries.mean, DATA, "z", **MEAN),
        r"name must be one of 'x', 'y', got 'z'",
    ),
    "no such column": (
        mean(columns=2),
        r"columns must be numbers from 0 to 1 of array 'x', got 2; leave it out",
    ),
    "negative column": (mean(columns=[0, -1]), r"from 0 to 1 of array 'x', got \[0, "),
    "no columns": (mean(columns=[]), r"from 0 to 1 of array 'x', got \[\]"),
    "columns of a vector": (
        ask(queries.mean, DATA, "y", columns=0, **MEAN),
        r"columns=0 need a two-dimensional array, got 'y' of shape \(6,\)",
    ),
    "bounds in reverse": (
        mean(lower=3.0, upper=-2.0),
        r"lower must be finite and < upper, got lower=3.0 and upper=-2.0; pass what",
    ),
    "infinite bound": (mean(upper=np.inf), r"lower must be finite and < upper"),
    "bound is no number": (mean(upper="high"), r"must be numbers, or arrays of shape"),
    "too many bounds": (
        mean(lower=[0, 0, 0]),
        r"lower and upper must be numbers, or arrays of shape \(2,\), got \[0, 0, 0\]",
    ),
    "one bound for a column": (
        mean(columns=0, lower=[0]),
        r"arrays of shape \(\), got \[0\]",
    ),
    "weighting": (
        mean(weighting="client"),
        r"weighting must be one of .* got 'client'; did you mean 'clients'",
    ),
    "moments too": (
        ask(queries.moments, DATA, "x", **(MEAN | {"weighting": "rows"})),
        r"weighting must be one of 'examples', 'clients', got 'rows'",
    ),
    "neither": (
        histogram(edges=None),
        r"one of edges and categories .* got neither",
    ),
    "both": (histogram(categories=[1]), r"one of edges and categories .* got both"),
    "one edge": (histogram(edges=[1]), r"edges must be at least two rising numbers"),
    "falling edges": (histogram(edges=[1, 0]), r"rising numbers, got \[1, 0\]; name"),
    "edges are words": (histogram(edges="ab"), r"edges must be a list of finite numb"),
    "categories twice": (
        histogram(edges=None, categories=[1, 1]),
        r"categories must be distinct numbers, got \[1, 1\]",
    ),
    "no categories": (
        histogram(edges=None, categories=[]),
        r"distinct numbers, got",
    ),
    "extreme": (
        quantile(1.0),
        r"strictly between 0 and 1, got 1.0; .* client's own",
    ),
    "no probability": (quantile([]), r"strictly between 0 and 1, got \[\]"),
    "nan": (quantile([0.5, np.nan]), r"strictly between 0 and 1, got \[0.5, nan\]"),
    "coarse": (quantile(resolution=1), r"resolution must be from 2 to 4096, got 1"),
    "fine": (quantile(resolution=5000), r"resolution must be from 2 to 4096, got 5000"),
    "no metric": (evaluation(bounds={}), r"bounds must name at least one metric"),
    "metric bounds": (
        evaluation(bounds={"square": 4}),
        r"bounds of 'square' must be \(lowest, highest\), got 4; pass for example",
    ),
    "metric bounds in reverse": (
        evaluation(bounds={"square": (4, 0)}),
        r"lower must be finite and < upper",
    ),
    "no function": (evaluation(metric_fn=3), r"metric_fn must be a function, got int"),
    "no looks": (evaluation(looks=0), r"looks must be an integer >= 1, got 0; plan"),
    "other metric": (
        evaluation(look=True, bounds={"cube": (0, 1)}),
        r"must return the metrics \['cube'\] that have bounds, got \['square'\]",
    ),
    "a mean": (
        evaluation(lambda p, r: {"square": r["x"].mean()}, look=True),
        r"metric 'square' must be one value per row, got shape \(\) for 1 row",
    ),
    "nothing spent": (
        ask(queries.composed_epsilon, [], delta=1e-3),
        r"spends must name at least one part, got none",
    ),
    "one spend": (
        ask(queries.composed_epsilon, GOOD, delta=1e-3),
        r"spends must be a list or tuple, got Central; pass \[privacy, answer\]",
    ),
    "unknown rounds": (
        ask(queries.composed_epsilon, [GOOD], delta=1e-3),
        r"rounds must be an integer >= 1, got None; calibrate the privacy object",
    ),
    "a number": (
        ask(queries.composed_epsilon, [0.5], delta=1e-3),
        r"spends must hold answers, .* got float; other units",
    ),
    "delta": (
        ask(queries.composed_epsilon, [(GOOD, 1)], delta=0.0),
        r"delta must be strictly between 0 and 1, got 0.0",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_call_says_value_rule_and_remedy(name):
    call, message = CASES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_too_many_clients_for_the_grid_are_refused_when_planned():
    count = 1_000_000
    data = jf.data.FederatedData.from_arrays(
        {"v": np.zeros(count, np.float32)}, client=np.arange(count)
    )
    with pytest.raises(ValueError, match=r"up to 1,000,000 clients of 1,024 param"):
        queries.quantile(
            data,
            "v",
            0.5,
            lower=0,
            upper=1,
            resolution=1024,
            privacy=mechanism(count),
            key=KEY,
        )


def test_nobody_can_pass_a_sensitivity():
    for name in ("mean", "moments", "scaling", "histogram", "quantile", "evaluation"):
        names = set(inspect.signature(getattr(queries, name)).parameters)
        assert not names & {"sensitivity", "epsilon", "event", "noise", "clip", "seed"}
        assert {"privacy", "key", "ledger"} <= names
        for source in ("key", "ledger"):
            found = inspect.signature(getattr(queries, name)).parameters[source]
            assert found.default is None
            assert found.kind is inspect.Parameter.KEYWORD_ONLY


def test_there_is_no_default_source_of_noise():
    with pytest.raises(TypeError, match="either key or ledger, got none"):
        mean(key=None)()
    with pytest.raises(TypeError, match="either key or ledger, got both"):
        mean(ledger="budget.db")()


def test_two_keys_are_not_one():
    with pytest.raises(TypeError, match="key must be one typed PRNG key, got 2 keys"):
        mean(key=jax.random.split(KEY))()
