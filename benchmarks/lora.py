"""What of a model to train under noise: all of it, LoRA, or FFA-LoRA.

The transformer and the persons of `examples/14_lora.py`, at two epsilons; each part of
the model with the best of its server learning rates, by the mean of the seeds. Choosing
so is not private: a run on real text would have to pay for it.

What you should see: LoRA is a little better than the whole model at epsilon 0.3 and as
good at epsilon 1; FFA-LoRA, half of its numbers, is as good as the whole model at 0.3
and a little worse at 1. It takes some minutes.

    python benchmarks/lora.py --out benchmarks/results/lora.json
"""

import argparse
import json
import pathlib
import platform
import runpy

import jax
import numpy as np
import optax

import jaxfed as jf

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "14_lora.py"
EPSILONS = (0.3, 1.0)
RATES = (0.0075, 0.015, 0.03, 0.05, 0.08)


def parts_of(example):
    """Returns name -> (loss, initial values, and how they make the whole model)."""
    base, a, merge = example["base"], example["a"], jf.parts.lora.merge
    return {
        "whole": (example["loss_fn"], base, lambda params: params),
        "LoRA": (
            example["of_adapters"],
            example["adapters"],
            lambda params: merge(base, params, alpha=4.0),
        ),
        "FFA-LoRA": (
            example["of_b"],
            example["only_b"],
            lambda params: merge(base, jf.parts.merge(params, a), alpha=4.0),
        ),
    }


def bits(example, name, epsilon, seeds):
    """Returns rate -> bits for each symbol after the last round, one a seed."""
    loss, params, whole = parts_of(example)[name]
    privacy = example["private"].calibrated(
        epsilon=epsilon, delta=1e-4, rounds=example["ROUNDS"]
    )
    local = jf.clients.sgd(loss, optax.sgd(0.3), batch_size=example["TEXTS"], epochs=1)

    def build(learning_rate):
        optimizer = optax.adam(learning_rate)
        return jf.algorithms.fedavg(local, privacy, server_optimizer=optimizer)

    swept = jf.sweep(
        build,
        example["persons"],
        params=params,
        rounds=example["ROUNDS"],
        seeds=range(seeds),
        settings={"learning_rate": RATES},
        evaluate=lambda params: {"bits": example["surprise"](whole(params))},
    )
    last = np.asarray(swept.curves["bits"])[..., -1]  # (settings, seeds)
    return {rate: last[place].tolist() for place, rate in enumerate(RATES)}


def main():
    """Measures every part at every epsilon and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    example = runpy.run_path(str(EXAMPLE))
    rows = []
    for name in parts_of(example):
        for epsilon in EPSILONS:
            found = bits(example, name, epsilon, given.seeds)
            rate = min(found, key=lambda rate: np.mean(found[rate]))
            rows.append(
                {
                    "trained": name,
                    "numbers": jf.tree.size(parts_of(example)[name][1]),
                    "epsilon": epsilon,
                    "server learning rate": rate,
                    "bits": round(float(np.mean(found[rate])), 3),
                    "each seed": [round(one, 3) for one in found[rate]],
                    "other rates": {
                        str(rate): round(float(np.mean(values)), 3)
                        for rate, values in found.items()
                    },
                }
            )
            print({k: v for k, v in rows[-1].items() if k != "other rates"}, flush=True)
    about = {
        "pretrained": round(float(example["surprise"](example["base"])), 3),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    if given.out:
        document = {"about": about, "rows": rows}
        given.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
