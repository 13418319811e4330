"""Parts of a model as slow NumPy float64 loops: masked descent, and LoRA.

LoRA is that of Hu et al. 2021, equation 3, for one kernel of rank one; gradients by the
chain rule, by hand.
"""

from tests.reference.fedavg import gradient
from tests.reference.methods import FedAvg


class Averaging(FedAvg):
    """McMahan et al. 2017."""

    def server(self, mean, share):
        del share
        self.x = self.x + mean["change"]


def part_of(kind, mask):
    """Returns a method of which only the weights under a mask are trained."""

    class Part(kind):
        def steps(self, batches, direct=lambda g, y, batch: g):
            return super().steps(batches, lambda g, y, b: mask * direct(g, y, b))

    return Part


class LoRA:
    """Averages of a and b; with `only_b`, FFA-LoRA: Sun et al. 2024."""

    def __init__(self, weights, a, b, *, alpha, rate, only_b):
        self.weights, self.a, self.b = weights, a.copy(), b.copy()
        self.alpha, self.rate, self.only_b = alpha, rate, only_b

    def client(self, number, batches):
        del number
        a, b = self.a.copy(), self.b
        for batch in batches:
            whole = self.weights.copy()
            whole[:-1] += self.alpha * a * b
            slope = gradient(whole, *batch)[:-1]
            a_slope = self.alpha * slope * b
            b = b - self.rate * self.alpha * (slope @ a)
            if not self.only_b:
                a = a - self.rate * a_slope
        return {"a": a - self.a, "b": b - self.b}

    def server(self, mean, share):
        del share
        self.a, self.b = self.a + mean["a"], self.b + mean["b"]
