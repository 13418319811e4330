"""Federated methods as slow NumPy float64 loops, each as its paper writes it.

A method is a class: `client(number, batches)` returns what one client sends, and
`server(mean, share)` takes the mean of what was sent. Weights are vectors; the problem
is the logistic one of `tests.reference.fedavg`.
"""

import numpy as np

from tests.reference.fedavg import gradient


class Method:
    """Server parameters, and the learning rate of clients."""

    weighting = "clients"

    def __init__(self, weights, rate=0.2):
        self.x, self.rate = weights.copy(), rate

    def steps(self, batches, direct=lambda g, y, batch: g):
        """Takes SGD steps along directed gradients; returns where they end."""
        y = self.x.copy()
        for batch in batches:
            y = y - self.rate * direct(gradient(y, *batch), y, batch)
        return y


class FedAvg(Method):
    """The client half of everything whose server alone differs."""

    def client(self, number, batches):
        del number
        return {"change": self.steps(batches) - self.x}


class FedProx(FedAvg):
    """Li et al. 2020, with mu = 0.3."""

    def client(self, number, batches):
        del number
        x = self.x
        return {"change": self.steps(batches, lambda g, y, b: g + 0.3 * (y - x)) - x}

    def server(self, mean, share):
        del share
        self.x = self.x + mean["change"]


class FedSGD(Method):
    """McMahan et al. 2017: one step along the mean gradient, of rate 0.5."""

    weighting = "examples"

    def client(self, number, batches):
        del number
        rows = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        return {"gradient": gradient(self.x, *rows)}

    def server(self, mean, share):
        del share
        self.x = self.x - 0.5 * mean["gradient"]


class FedAvgM(FedAvg):
    """Hsu et al. 2019."""

    v = 0.0

    def server(self, mean, share):
        del share
        self.v = 0.9 * self.v + mean["change"]
        self.x = self.x + 0.5 * self.v


class Adaptive(FedAvg):
    """Reddi et al. 2021, algorithm 2, with tau = 0.01."""

    b1, m = 0.9, 0.0

    def __init__(self, weights, rate=0.2):
        super().__init__(weights, rate)
        self.v = np.full_like(weights, 0.01**2)

    def server(self, mean, share):
        del share
        delta = mean["change"]
        self.m = self.b1 * self.m + (1 - self.b1) * delta
        self.v = self.second(delta)
        self.x = self.x + 0.1 * self.m / (np.sqrt(self.v) + 0.01)


class FedAdagrad(Adaptive):
    """Line 11, first."""

    b1 = 0.0

    def second(self, delta):
        return self.v + delta**2


class FedYogi(Adaptive):
    """Line 12."""

    def second(self, delta):
        return self.v - 0.01 * delta**2 * np.sign(self.v - delta**2)


class FedAdam(Adaptive):
    """Line 13."""

    def second(self, delta):
        return 0.99 * self.v + 0.01 * delta**2


class FedExP(FedAvg):
    """Jhunjhunwala et al. 2023, with epsilon = 0.001."""

    def client(self, number, batches):
        change = super().client(number, batches)["change"]
        return {"change": change, "squared": change @ change}

    def server(self, mean, share):
        del share
        change = mean["change"]
        rate = max(1.0, mean["squared"] / (2 * (change @ change + 0.001)))
        self.x = self.x + rate * change


class Scaffold(Method):
    """Karimireddy et al. 2020, option II."""

    option = 2

    def __init__(self, weights, rate=0.2):
        super().__init__(weights, rate)
        self.c = np.zeros_like(weights)
        self.own = {}

    def client(self, number, batches):
        x, c = self.x, self.c
        own = self.own.get(number, np.zeros_like(x))
        y = self.steps(batches, lambda g, y, b: g - own + c)
        if self.option == 1:
            new = np.mean([gradient(x, *batch) for batch in batches], axis=0)
        else:
            new = own - c + (x - y) / (len(batches) * self.rate)
        self.own[number] = new
        return {"change": y - x, "control": new - own}

    def server(self, mean, share):
        self.x = self.x + mean["change"]
        self.c = self.c + share * mean["control"]


class ScaffoldOne(Scaffold):
    """Option I."""

    option = 1


class FedNova(Method):
    """Wang et al. 2020, plain SGD: a is a vector of ones."""

    weighting, momentum = "examples", 0.0

    def client(self, number, batches):
        del number
        y, v = self.x.copy(), np.zeros_like(self.x)
        counts = np.zeros(len(batches))  # how much each gradient counts in the change
        for step, batch in enumerate(batches):
            v = self.momentum * v + gradient(y, *batch)
            y = y - self.rate * v
            left = len(batches) - step
            counts[step] = sum(self.momentum**power for power in range(left))
        return {"change": (y - self.x) / counts.sum(), "steps": counts.sum()}

    def server(self, mean, share):
        del share
        self.x = self.x + mean["steps"] * mean["change"]


class FedNovaM(FedNova):
    """With heavy-ball momentum of 0.5."""

    momentum = 0.5


class FedDyn(Method):
    """Acar et al. 2021, with alpha = 0.3 on both sides."""

    alpha = 0.3

    def __init__(self, weights, rate=0.2):
        super().__init__(weights, rate)
        self.h = np.zeros_like(weights)
        self.own = {}

    def client(self, number, batches):
        x, alpha = self.x, self.alpha
        own = self.own.get(number, np.zeros_like(x))
        y = self.steps(batches, lambda g, y, b: g - own + alpha * (y - x))
        self.own[number] = own - alpha * (y - x)
        return {"change": y - x}

    def server(self, mean, share):
        self.h = self.h - self.alpha * share * mean["change"]
        self.x = self.x + mean["change"] - self.h / self.alpha


class QFFL(Method):
    """Li et al. 2020, algorithm 2, with q = 2."""

    q = 2.0

    def client(self, number, batches):
        del number
        x, lipschitz = self.x, 1 / self.rate
        rows, labels = (np.concatenate(p) for p in zip(*batches, strict=True))
        scores = rows @ x[:-1] + x[-1]
        loss = np.mean(np.logaddexp(0, scores) - labels * scores)
        delta_w = lipschitz * (x - self.steps(batches))
        weight = self.q * loss ** (self.q - 1) * (delta_w @ delta_w)
        weight += lipschitz * loss**self.q
        return {"delta": loss**self.q * delta_w, "weight": weight}

    def server(self, mean, share):
        del share
        self.x = self.x - mean["delta"] / mean["weight"]


class AFL(Method):
    """Ro et al. 2021: domains 0 and 1 in turn, a rate of 0.7 for their weights.

    A domain's examples are counted over all rounds so far, after an even one.
    """

    weighting, domains = "examples", 2

    def __init__(self, weights, rate=0.2):
        super().__init__(weights, rate)
        self.weights = np.full(self.domains, 1 / self.domains)
        self.shares = [np.full(self.domains, 1 / self.domains)]
        self.losses = np.zeros(self.domains)

    def client(self, number, batches):
        rows, labels = (np.concatenate(p) for p in zip(*batches, strict=True))
        scores = rows @ self.x[:-1] + self.x[-1]
        loss = np.mean(np.logaddexp(0, scores) - labels * scores)
        one = np.eye(self.domains)[number % self.domains]
        alpha = one @ (self.weights / np.mean(self.shares, axis=0))
        change = self.steps(batches) - self.x
        return {"change": alpha * change, "beta": alpha, "loss": loss * one, "n": one}

    def server(self, mean, share):
        del share
        self.x = self.x + mean["change"] / mean["beta"]
        for number, count in enumerate(mean["n"]):
            if count > 0:
                self.losses[number] = mean["loss"][number] / count
        self.weights = self.weights * np.exp(0.7 * self.losses)
        self.weights = self.weights / self.weights.sum()
        self.shares.append(mean["n"])


class MimeLite(Method):
    """Karimireddy et al. 2021, momentum 0.5 whose state is the server's."""

    is_lite = True

    def __init__(self, weights, rate=0.2):
        super().__init__(weights, rate)
        self.s = np.zeros_like(weights)
        self.c = np.zeros_like(weights)

    def client(self, number, batches):
        del number
        x, s, c = self.x, self.s, self.c

        def direct(g, y, batch):
            del y
            if not self.is_lite:
                g = g - gradient(x, *batch) + c
            return 0.5 * s + g

        y = self.steps(batches, direct)
        rows = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        return {"change": y - x, "gradient": gradient(x, *rows)}

    def server(self, mean, share):
        del share
        self.x = self.x + mean["change"]
        self.s = 0.5 * self.s + mean["gradient"]
        self.c = mean["gradient"]


class Mime(MimeLite):
    """With the correction; the mean gradient is that of the round before."""

    is_lite = False
