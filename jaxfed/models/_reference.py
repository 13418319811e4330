"""Small networks that federated learning is measured on.

Image and character models are those of LEAF (Caldas et al. 2018, arXiv:1812.01097) and
of FedJAX (Ro et al. 2021, arXiv:2108.02117); the network for CIFAR is the simple
one of pfl-research (Granqvist et al. 2024, arXiv:2404.06430). Each keeps only trained
parameters. Attributes choose the layers: with the stock ones, a model computes the
same from the same parameters, recurrent layers aside, which name theirs differently.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfed.models._convolution import conv_general_dilated
from jaxfed.models._dropout import Dropout
from jaxfed.models._pooling import max_pool
from jaxfed.models._recurrent import LSTM


class LogisticRegression(nn.Module):
    """Multinomial logistic regression, which starts from zero."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits `(n, classes)` of rows `(n, ...)`."""
        flat = x.reshape(x.shape[0], -1)
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros_init())(flat)


class MLP(nn.Module):
    """A multilayer perceptron with rectifiers; 200 and 200 units as McMahan et al."""

    classes: int
    widths: Sequence[int] = (200, 200)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits `(n, classes)` of rows `(n, ...)`."""
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


class CNN(nn.Module):
    """Two convolutions of 3 x 3 without padding, pooling, two dense layers, dropout.

    With 62 classes and images of 28 x 28 x 1 it is the network for EMNIST of FedJAX,
    1,206,590 parameters; with 10 classes and 32 x 32 x 3 the one for CIFAR-10 of
    pfl-research, 1,626,442. `CNN(classes=62, convolution=jax.lax.conv_general_dilated,
    pool=nn.max_pool, dropout=nn.Dropout)` is the same of stock layers.
    """

    classes: int
    convolution: Callable[..., jax.Array] = conv_general_dilated
    pool: Callable[..., jax.Array] = max_pool
    dropout: Callable[..., Any] = Dropout

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        """Returns the logits `(n, classes)` of images `(n, height, width, channels)`.

        Args:
            x: the images.
            deterministic: switches dropout off; `False` needs the stream `"dropout"`.
        """
        for features in (32, 64):
            x = nn.Conv(
                features,
                (3, 3),
                padding="VALID",
                conv_general_dilated=self.convolution,
            )(x)
            x = nn.relu(x)
        x = self.pool(x, (2, 2), strides=(2, 2))
        x = self.dropout(0.25)(x, deterministic=deterministic)
        x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
        x = self.dropout(0.5)(x, deterministic=deterministic)
        return nn.Dense(self.classes)(x)


class CharacterRNN(nn.Module):
    """The next character, by two recurrent layers over an embedding.

    The defaults are the Shakespeare network of LEAF and FedJAX, 820,522 parameters;
    `recurrent=jaxfed.models.GRU` is its variant with gated recurrent units, and
    `recurrent=lambda features: nn.RNN(nn.OptimizedLSTMCell(features))` the stock one.
    """

    vocabulary: int = 90
    embedding: int = 8
    features: int = 256
    layers: int = 2
    recurrent: Callable[[int], Any] = LSTM

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits `(n, time, vocabulary)` of what follows `(n, time)`."""
        x = nn.Embed(self.vocabulary, self.embedding)(x)
        for _ in range(self.layers):
            x = self.recurrent(self.features)(x)
        return nn.Dense(self.vocabulary)(x)


class CharacterTransformer(nn.Module):
    """The next character, by a small causal transformer; normalised before each part.

    Vaswani et al. 2017, arXiv:1706.03762, with learned positions. The defaults have
    116,826 parameters.
    """

    vocabulary: int = 90
    length: int = 80
    features: int = 64
    heads: int = 4
    layers: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits `(n, time, vocabulary)` of the characters after `(n, time)`.

        Raises:
            ValueError: `features` is no multiple of `heads`, or `time` is above
                `length`.
        """
        if self.features % self.heads:
            raise ValueError(
                f"features must be a multiple of heads, got {self.features} and "
                f"{self.heads}; pass for example features=64, heads=4."
            )
        if x.shape[-1] > self.length:
            raise ValueError(
                f"a sequence must have at most length={self.length} characters, got "
                f"{x.shape[-1]}; pass length={x.shape[-1]} to the model."
            )
        positions = nn.Embed(self.length, self.features, name="positions")
        x = nn.Embed(self.vocabulary, self.features)(x)
        x = x + positions(jnp.arange(x.shape[-2]))[None]
        for _ in range(self.layers):
            x = x + self._attention(nn.LayerNorm()(x))
            hidden = nn.gelu(nn.Dense(4 * self.features)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.features)(hidden)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))

    def _attention(self, x: jax.Array) -> jax.Array:
        each = (*x.shape[:-1], self.heads, self.features // self.heads)
        parts = jnp.split(nn.Dense(3 * self.features)(x), 3, axis=-1)
        query, key, value = (part.reshape(each) for part in parts)
        seen = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return nn.Dense(self.features)(seen.reshape(x.shape))
