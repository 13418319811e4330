"""Bytes in a simulation's records, and none in those of a run that releases."""

import csv

import numpy as np

import jaxfed as jf
from jaxfed import clients
from jaxfed.compression import RandomK, TopK, compressed
from tests.compression.test_compressed import (
    BATCHES,
    DATA,
    LOOP,
    PARAMS,
    central,
    none,
    run,
    sgd,
)
from tests.problems import flat, logistic_loss


def test_a_simulation_records_bytes(tmp_path):
    plain, short = run(sgd(), rounds=2), run(compressed(sgd(), TopK(fraction=0.4)))
    for one in plain.rounds:
        assert one.private["num_bytes_down"] == one.private["num_bytes_up"] == 4 * 20
    bits = TopK(fraction=0.4).num_bits(PARAMS)
    assert bits == 2 * 32 + 5
    for one in short.rounds:
        assert one.private["num_bytes_up"] == 4 * 9  # 69 bits are 9 bytes
        assert one.private["num_bytes_down"] == 4 * 20
    short.to_csv(tmp_path / "rounds.csv")
    with (tmp_path / "rounds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["private.num_bytes_up"]) for row in rows] == [36] * 6
    assert short.curve("num_bytes_up")[1].tolist() == [36] * 6
    assert "num_bytes" not in repr(short)


def test_what_a_method_sends_and_receives_is_counted():
    """SCAFFOLD's variates go both ways; cohorts of other sizes take other bytes."""
    local = clients.scaffold(logistic_loss, learning_rate=0.2, **BATCHES)
    poisson = jf.sampling.Poisson(population=DATA.num_clients, rate=0.5)
    algorithm = jf.algorithms.scaffold(local, none(poisson))
    found = jf.simulate(
        algorithm, DATA, params=PARAMS, rounds=6, seed=0, progress=False, strategy=LOOP
    )
    counts = [one.private["num_clients"] for one in found.rounds]
    assert len(set(counts)) > 1
    for one, count in zip(found.rounds, counts, strict=True):
        assert one.private["num_bytes_down"] == count * 2 * 20
        assert one.private["num_bytes_up"] == count * 2 * 20


def test_a_run_that_releases_records_none(tmp_path):
    """Bytes are a fixed number for each client, so that they tell how many came."""
    local = compressed(sgd(), RandomK(fraction=0.4))
    algorithm = jf.algorithms.fedavg(local, central(0.15, noise=8.0))
    ledger = jf.Ledger.create(
        tmp_path / "budget.db",
        epsilon=50.0,
        delta=1e-3,
        unit="client",
        relation="replace_one",
    )
    with ledger:
        history = jf.train(
            algorithm, DATA, params=PARAMS, rounds=2, ledger=ledger, progress=False
        )
    assert history.private
    assert [one.private for one in history.rounds] == [{}, {}]
    history.to_json(tmp_path / "history.json")
    assert "bytes" not in (tmp_path / "history.json").read_text()
    assert np.isfinite(flat(history.params)).all()
