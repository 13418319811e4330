"""Personalised methods as slow NumPy float64 loops, each as its paper writes it."""

import numpy as np

from tests.reference.fedavg import gradient
from tests.reference.methods import FedAvg, Method


def loss(weights, x, y):
    """The mean logistic loss of `tests.reference.fedavg`'s problem."""
    scores = x @ weights[:-1] + weights[-1]
    return np.mean(np.logaddexp(0.0, scores) - y * scores)


class Personal(FedAvg):
    """Federated averaging, and a model of each client's own in `own`."""

    def __init__(self, weights, rate=0.2):
        super().__init__(weights, rate)
        self.start, self.own = weights.copy(), {}

    def server(self, mean, share):
        del share
        self.x = self.x + mean["change"]

    def model(self, number):
        return self.own.get(number, self.start)


class Ditto(Personal):
    """Li et al. 2021, with lambda = 0.5 and a personal rate of 0.1."""

    def client(self, number, batches):
        own = self.model(number).copy()
        for batch in batches:
            own = own - 0.1 * (gradient(own, *batch) + 0.5 * (own - self.x))
        self.own[number] = own
        return super().client(number, batches)


class APFL(Personal):
    """Deng et al. 2020, with alpha = 0.3 and a personal rate of 0.1."""

    def client(self, number, batches):
        own, w = self.own.get(number, self.start).copy(), self.x.copy()
        for batch in batches:
            mixed = 0.3 * own + 0.7 * w
            own = own - 0.1 * 0.3 * gradient(mixed, *batch)
            w = w - self.rate * gradient(w, *batch)
        self.own[number] = own
        return {"change": w - self.x}

    def model(self, number):
        return 0.3 * self.own.get(number, self.start) + 0.7 * self.x


class FineTuned(Personal):
    """Federated averaging whose clients keep where they came."""

    def client(self, number, batches):
        sent = super().client(number, batches)
        self.own[number] = self.x + sent["change"]
        return sent


class FedPer(Personal):
    """Arivazhagan et al. 2019: the bias, which is last, never leaves its client."""

    private_steps = None

    def client(self, number, batches):
        y = self.x.copy()
        y[-1] = self.own.get(number, self.start[-1])
        for count, batch in enumerate(batches):
            step = self.rate * gradient(y, *batch)
            if self.private_steps is not None:
                if count < self.private_steps:
                    step[:-1] = 0
                else:
                    step[-1] = 0
            y = y - step
        self.own[number] = y[-1]
        change = y - self.x
        change[-1] = 0
        return {"change": change}

    def model(self, number):
        return np.append(self.x[:-1], self.own.get(number, self.start[-1]))


class FedRep(FedPer):
    """Collins et al. 2021: two steps of the head, then the others of the body."""

    private_steps = 2


class IFCA(Method):
    """Ghosh et al. 2020, model averaging; the first third of the batches is a look."""

    weighting = "examples"

    def __init__(self, weights, rate=0.2):
        super().__init__(weights, rate)
        self.own = {}

    def client(self, number, batches):
        look = batches[: len(batches) // 3]
        rows = [np.concatenate(parts) for parts in zip(*look, strict=True)]
        chosen = int(np.argmin([loss(w, *rows) for w in self.x]))
        y = self.x[chosen].copy()
        for batch in batches[len(look) :]:
            y = y - self.rate * gradient(y, *batch)
        self.own[number] = chosen
        change, chose = np.zeros_like(self.x), np.zeros(len(self.x))
        change[chosen], chose[chosen] = y - self.x[chosen], 1
        return {"change": change, "chose": chose}

    def server(self, mean, share):
        del share
        self.x = self.x + mean["change"] / np.maximum(mean["chose"], 0.05)[:, None]

    def model(self, number):
        return self.x[self.own.get(number, 0)]
