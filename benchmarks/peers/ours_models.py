"""The models for jaxfed: plain functions, stock flax layers, and jaxfed's own.

`_tuned` is the one place where the layers of `jaxfed.models` are plugged in.
"""

import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from speed import workloads

from peers import jax_models


def make_model(workload, params, *, layers, exact):
    """Returns `model(params, x, key) -> outputs` and its parameters.

    Args:
        workload: which model.
        params: the initial parameters of all frameworks.
        layers: `tuned` or `stock`; a multilayer perceptron has only one kind.
        exact: without dropout.
    """
    if workload.model == "mlp":
        arrays = jax.tree.map(jnp.asarray, params)
        return lambda own, x, key: jax_models.outputs(workload, own, x), arrays
    module = _stock(workload) if layers == "stock" else _tuned(workload)
    # dropout is off where nothing is said
    words = {"deterministic": False} if workload.model == "cnn" and not exact else {}

    def model(own, x, key):
        return module.apply({"params": own}, x, rngs={"dropout": key}, **words)

    return model, to_flax(params, layers=layers)


def _tuned(workload):
    """Returns the module of jaxfed's own layers."""
    if importlib.util.find_spec("jaxfed.models") is None:
        raise RuntimeError("this version of jaxfed has no jaxfed.models")
    from jaxfed import models

    if workload.model == "cnn":
        return models.CNN(classes=workload.classes)
    return models.CharacterRNN()


def _stock(workload):
    """Returns the module of flax's own layers."""
    return StockCnn(workload.classes) if workload.model == "cnn" else StockLstm()


class StockCnn(nn.Module):
    """The network of EMNIST with flax's own layers."""

    classes: int

    @nn.compact
    def __call__(self, x, deterministic=True):
        """Returns (batch, classes)."""
        for features in (32, 64):
            x = nn.relu(nn.Conv(features, (3, 3), padding="VALID")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2)).reshape(len(x), -1)
        x = nn.Dropout(0.25)(x, deterministic=deterministic)
        x = nn.relu(nn.Dense(128)(x))
        x = nn.Dropout(0.5)(x, deterministic=deterministic)
        return nn.Dense(self.classes)(x)


class StockLstm(nn.Module):
    """The network of Shakespeare's characters with flax's own layers."""

    @nn.compact
    def __call__(self, x):
        """Returns (batch, length, characters)."""
        x = nn.Embed(workloads.VOCABULARY, workloads.EMBEDDING)(x)
        for layer in "01":
            cell = nn.OptimizedLSTMCell(workloads.HIDDEN, name=f"LSTM_{layer}")
            x = nn.RNN(cell)(x)
        return nn.Dense(workloads.VOCABULARY)(x)


_MODULES = {"conv": "Conv", "dense": "Dense", "input": "LSTM", "hidden": "LSTM"}
_TUNED_LEAVES = {
    ("input", "kernel"): "input_kernel",
    ("hidden", "kernel"): "recurrent_kernel",
    ("input", "bias"): "bias",
}


def to_flax(params, *, layers):
    """Returns the parameters of all frameworks as those of a flax module.

    Args:
        params: name -> array, as in `workloads.initial_params`.
        layers: whose: `tuned` or `stock`.
    """
    found = {}
    for name, value in params.items():
        owner, leaf = name.split("/")
        if owner == "embedding":
            found["Embed_0"] = {"embedding": value}
            continue
        kind, index = owner[:-1], owner[-1]
        leaves = found.setdefault(f"{_MODULES[kind]}_{index}", {})
        if kind in ("conv", "dense"):
            leaves[leaf] = value
        elif layers == "tuned":
            leaves[_TUNED_LEAVES[kind, leaf]] = value
        else:  # a kernel for each gate, and the bias beside the hidden one
            place = "h" if leaf == "bias" or kind == "hidden" else "i"
            for gate, part in zip("ifgo", np.split(value, 4, axis=-1), strict=True):
                leaves.setdefault(f"{place}{gate}", {})[leaf] = part
    return jax.tree.map(jnp.asarray, found)


def from_flax(params, *, layers):
    """Returns what `to_flax` was given; plain parameters as they are."""
    if not any(name.startswith(("Conv_", "LSTM_")) for name in params):
        return params
    found = {}
    for module, leaves in params.items():
        kind, index = module.split("_")
        if kind == "Embed":
            found["embedding/kernel"] = leaves["embedding"]
        elif kind != "LSTM":
            for leaf, value in leaves.items():
                found[f"{kind.lower()}{index}/{leaf}"] = value
        elif layers == "tuned":
            for (part, leaf), own in _TUNED_LEAVES.items():
                found[f"{part}{index}/{leaf}"] = leaves[own]
        else:
            for part in ("input", "hidden"):
                gates = [leaves[f"{part[0]}{gate}"]["kernel"] for gate in "ifgo"]
                found[f"{part}{index}/kernel"] = np.concatenate(gates, axis=-1)
            gates = [leaves[f"h{gate}"]["bias"] for gate in "ifgo"]
            found[f"input{index}/bias"] = np.concatenate(gates)
    return found
