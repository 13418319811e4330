"""The models in PyTorch, stock layers, from and to the parameters of all."""

from typing import Any

import numpy as np
import torch
from speed import workloads
from torch import nn


class Cnn(nn.Module):
    """Two convolutions, a maximum, two dense layers, dropout."""

    def __init__(self, classes: int, *, dropout: bool):
        super().__init__()
        self.conv0 = nn.Conv2d(1, 32, 3)
        self.conv1 = nn.Conv2d(32, 64, 3)
        self.dense0 = nn.Linear(9216, 128)
        self.dense1 = nn.Linear(128, classes)
        self.first = nn.Dropout(0.25 if dropout else 0.0)
        self.second = nn.Dropout(0.5 if dropout else 0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (batch, classes) from (batch, 1, 28, 28)."""
        x = torch.relu(self.conv0(x))
        x = torch.relu(self.conv1(x))
        x = self.first(nn.functional.max_pool2d(x, 2)).flatten(1)
        return self.dense1(self.second(torch.relu(self.dense0(x))))


class Mlp(nn.Module):
    """Dense layers with rectifiers."""

    def __init__(self, layers: tuple[int, ...]):
        super().__init__()
        self.count = len(layers) - 1
        for index in range(self.count):
            dense = nn.Linear(layers[index], layers[index + 1])
            self.add_module(f"dense{index}", dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (batch, classes)."""
        for index in range(self.count):
            x = getattr(self, f"dense{index}")(x)
            if index < self.count - 1:
                x = torch.relu(x)
        return x


class Lstm(nn.Module):
    """Two layers of LSTM over an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(workloads.VOCABULARY, workloads.EMBEDDING)
        self.lstm = nn.LSTM(
            workloads.EMBEDDING, workloads.HIDDEN, num_layers=2, batch_first=True
        )
        self.dense0 = nn.Linear(workloads.HIDDEN, workloads.VOCABULARY)
        for layer in range(2):  # the second bias would only double the first
            getattr(self.lstm, f"bias_hh_l{layer}").requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (batch, classes, length), as PyTorch's losses want it."""
        hidden, _ = self.lstm(self.embedding(x))
        return self.dense0(hidden).transpose(1, 2)


def make_model(workload: Any, params: dict[str, np.ndarray], *, exact: bool) -> Any:
    """Returns the workload's module with the given parameters."""
    if workload.model == "cnn":
        module: nn.Module = Cnn(workload.classes, dropout=not exact)
    elif workload.model == "lstm":
        module = Lstm()
        with torch.no_grad():
            module.lstm.bias_hh_l0.zero_()
            module.lstm.bias_hh_l1.zero_()
    else:
        module = Mlp(workload.layers)
    with torch.no_grad():
        for name, own in module.named_parameters():
            if own.requires_grad:
                own.copy_(torch.from_numpy(_to_torch(name, params)))
    return module


def make_tensors(workload: Any, data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns all examples in PyTorch's layout: channels first, 64-bit labels."""
    x = torch.from_numpy(data.x)
    if workload.model == "cnn":
        x = x.permute(0, 3, 1, 2).contiguous()
    if workload.model == "lstm":
        x = x.long()
    return x, torch.from_numpy(data.y).long()


def trained(module: nn.Module) -> list[torch.Tensor]:
    """Returns the parameters that are trained."""
    return [own for own in module.parameters() if own.requires_grad]


def to_arrays(module: nn.Module, tensors: list[torch.Tensor]) -> dict[str, np.ndarray]:
    """Returns arrays under the names of all from tensors like `trained(module)`."""
    names = [name for name, own in module.named_parameters() if own.requires_grad]
    arrays = {}
    for name, tensor in zip(names, tensors, strict=True):
        value = tensor.detach().numpy().copy()
        common = _common_name(name)
        if common == "dense0/kernel" and value.shape[1] == 9216:
            value = value.reshape(-1, 64, 12, 12).transpose(0, 2, 3, 1)
            value = value.reshape(-1, 9216)
        if common.startswith("conv") and value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif value.ndim == 2 and not common.startswith("embedding"):
            value = value.T
        arrays[common] = np.ascontiguousarray(value)
    return arrays


def _to_torch(name: str, params: dict[str, np.ndarray]) -> np.ndarray:
    """Returns one parameter in PyTorch's layout."""
    common = _common_name(name)
    value = params[common]
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    if value.shape[0] == 9216:
        value = value.reshape(12, 12, 64, -1).transpose(2, 0, 1, 3).reshape(9216, -1)
    if value.ndim == 2 and not common.startswith("embedding"):
        value = value.T
    return np.ascontiguousarray(value)


def _common_name(name: str) -> str:
    """Returns the name in `workloads.initial_params` of a module's parameter."""
    if name.startswith("lstm."):
        what, kind, layer = name.removeprefix("lstm.").split("_")
        part = {"ih": "input", "hh": "hidden"}[kind]
        leaf = {"weight": "kernel", "bias": "bias"}[what]
        return f"{part}{layer.removeprefix('l')}/{leaf}"
    owner, leaf = name.rsplit(".", 1)
    return f"{owner}/{ {'weight': 'kernel', 'bias': 'bias'}[leaf] }"
