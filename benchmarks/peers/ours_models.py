"""The models for jaxfed: plain functions, stock flax layers, and jaxfed's own.

`make_model` is the one place where the tuned layers of `jaxfed.models` are plugged in.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from speed import workloads

from jaxfed import models
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
    dropout = workload.model == "cnn" and not exact
    module = _module(workload, layers, dropout=dropout)
    is_tuned_cnn = workload.model == "cnn" and layers == "tuned"
    switch = {"deterministic": not dropout} if is_tuned_cnn else {}

    def model(own, x, key):
        return module.apply({"params": own}, x, rngs={"dropout": key}, **switch)

    return model, to_flax(workload, params, layers=layers)


def _module(workload, layers, *, dropout):
    """Returns the flax module."""
    if layers == "stock":
        return StockCnn(dropout) if workload.model == "cnn" else StockLstm()
    if workload.model == "cnn":
        return models.CNN(62)
    return models.CharacterRNN(workloads.VOCABULARY)


class StockCnn(nn.Module):
    """The network of EMNIST with flax's own layers."""

    dropout: bool

    @nn.compact
    def __call__(self, x):
        """Returns (batch, 62)."""
        x = nn.relu(nn.Conv(32, (3, 3), padding="VALID", name="conv0")(x))
        x = nn.relu(nn.Conv(64, (3, 3), padding="VALID", name="conv1")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2)).reshape(len(x), -1)
        x = nn.Dropout(0.25, deterministic=not self.dropout)(x)
        x = nn.relu(nn.Dense(128, name="dense0")(x))
        x = nn.Dropout(0.5, deterministic=not self.dropout)(x)
        return nn.Dense(62, name="dense1")(x)


class StockLstm(nn.Module):
    """The network of Shakespeare's characters with flax's own layers."""

    @nn.compact
    def __call__(self, x):
        """Returns (batch, length, characters)."""
        size = workloads.VOCABULARY
        x = nn.Embed(size, workloads.EMBEDDING, name="embedding")(x)
        for layer in "01":
            cell = nn.OptimizedLSTMCell(workloads.HIDDEN, name=f"lstm{layer}")
            x = nn.RNN(cell)(x)
        return nn.Dense(size, name="dense0")(x)


_TUNED = {
    "embedding/kernel": ("Embed_0", "embedding"),
    **{
        f"{part}{i}/{leaf}": (f"LSTM_{i}", name)
        for i in range(2)
        for part, leaf, name in (
            ("input", "kernel", "input_kernel"),
            ("hidden", "kernel", "recurrent_kernel"),
            ("input", "bias", "bias"),
        )
    },
    **{
        f"{kind}{i}/{leaf}": (f"{kind.title()}_{i}", leaf)
        for kind in ("conv", "dense")
        for i in range(2)
        for leaf in ("kernel", "bias")
    },
}


def to_flax(workload, params, *, layers):
    """Returns the parameters of all as those of the modules."""
    found = {}
    if layers == "tuned":
        for name, value in params.items():
            owner, leaf = _TUNED[name]
            found.setdefault(owner, {})[leaf] = jnp.asarray(value)
        return found
    for name, value in params.items():
        owner, leaf = name.split("/")
        if owner == "embedding":
            found["embedding"] = {"embedding": value}
        elif owner[:-1] in ("conv", "dense"):
            found.setdefault(owner, {})[leaf] = value
        else:  # flax keeps a kernel for each gate, and the bias with the hidden ones
            cell = found.setdefault(f"lstm{owner[-1]}", {})
            for gate, part in zip("ifgo", np.split(value, 4, axis=-1), strict=True):
                place = "h" if leaf == "bias" or owner.startswith("hidden") else "i"
                cell.setdefault(f"{place}{gate}", {})[leaf] = part
    return jax.tree.map(jnp.asarray, found)


def from_flax(workload, params, *, layers):
    """Returns what `to_flax` was given."""
    if workload.model == "mlp":
        return params
    if layers == "tuned":
        return {
            name: params[owner][leaf]
            for name, (owner, leaf) in _TUNED.items()
            if leaf in params.get(owner, {})
        }
    found = {}
    for owner, leaves in params.items():
        if owner == "embedding":
            found["embedding/kernel"] = leaves["embedding"]
        elif owner.startswith("lstm"):
            layer = owner[-1]
            for place, part in (("i", "input"), ("h", "hidden")):
                gates = [leaves[f"{place}{gate}"]["kernel"] for gate in "ifgo"]
                found[f"{part}{layer}/kernel"] = np.concatenate(gates, axis=-1)
            gates = [leaves[f"h{gate}"]["bias"] for gate in "ifgo"]
            found[f"input{layer}/bias"] = np.concatenate(gates)
        else:
            found |= {f"{owner}/{leaf}": value for leaf, value in leaves.items()}
    return found
