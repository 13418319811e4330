"""Scattering features of small images: a fixed transform that learns nothing.

Bruna and Mallat 2013, arXiv:1203.1513: moduli of wavelet transforms, twice in a row,
averaged by a Gaussian window; with two scales and eight angles, in the settings of
Oyallon and Mallat 2015, arXiv:1412.8659, which Tramer and Boneh 2021,
arXiv:2011.11660, use with differential privacy. The features of a record depend on
that record alone, so that they cost no privacy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

SCALES, ANGLES = 2, 8
STRIDE = 2**SCALES
CHANNELS = 1 + SCALES * ANGLES + ANGLES**2
_PERIODS = range(-2, 3)  # a filter is made periodic from so many copies


def scattering(images, groups=27):
    """Returns the features, each group of channels of each image made standard.

    Group normalisation is that of Wu and He 2018, arXiv:1803.08494, without learned
    parameters: every image is normalised by its own statistics.

    Args:
        images: (n, height, width) float32, sides divisible by four.
        groups: how many groups the 81 channels are in.

    Returns:
        (n, 81 * height / 4 * width / 4) float32.
    """
    transform = jax.jit(functools.partial(_features, groups=groups))
    parts = [images[start : start + 250] for start in range(0, len(images), 250)]
    return np.concatenate([np.asarray(transform(jnp.asarray(part))) for part in parts])


def _features(images, *, groups):
    channels = coefficients(images)
    grouped = channels.reshape(len(images), groups, -1)
    mean = grouped.mean(axis=2, keepdims=True)
    variance = grouped.var(axis=2, keepdims=True)
    return ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(len(images), -1)


def coefficients(images):
    """Returns the scattering coefficients, (n, 81, height / 4, width / 4)."""
    side = images.shape[1]
    before = STRIDE
    size = side + 2 * STRIDE
    after = size - side - before
    padding = ((0, 0), (before, after), (before, after))
    image = jnp.pad(images, padding, mode="reflect")
    window = jnp.asarray(_window(size)[1 : 1 + side // STRIDE])

    def averaged(maps):
        return jnp.einsum("pi,...ij,qj->...pq", window, maps, window)

    wavelets = jnp.asarray(_wavelets(size))
    first = _moduli(image, wavelets)  # (n, scale, angle, size, size)
    second = _moduli(first[:, 0], wavelets[1])  # (n, angle, angle, size, size)
    orders = [image[:, None], first, second]
    parts = [
        averaged(order).reshape(len(images), -1, *2 * (side // STRIDE,))
        for order in orders
    ]
    return jnp.concatenate(parts, axis=1)


def _moduli(maps, wavelets):
    """Returns |map * wavelet| of every map and every wavelet."""
    spectrum = jnp.fft.fft2(maps)
    leading = (...,) + (None,) * (wavelets.ndim - 2)
    return jnp.abs(
        jnp.fft.ifft2(spectrum[(*leading, slice(None), slice(None))] * wavelets)
    )


@functools.cache
def _wavelets(size):
    """Returns the Morlet wavelets' real spectra, (scale, angle, size, size)."""
    spectra = np.empty((SCALES, ANGLES, size, size))
    for scale in range(SCALES):
        for index in range(ANGLES):
            angle = (ANGLES // 2 - 1 - index) * np.pi / ANGLES
            spectra[scale, index] = np.fft.fft2(_morlet(size, scale, angle)).real
    return spectra.astype(np.float32)


def _morlet(size, scale, angle):
    """A wave under an elongated Gaussian, less a multiple of it: the mean is zero."""
    sigma, slant = 0.8 * 2**scale, 4 / ANGLES
    frequency = 0.75 * np.pi / 2**scale
    envelope, wave = np.zeros((size, size)), np.zeros((size, size), complex)
    for down in _PERIODS:
        for right in _PERIODS:
            y, x = (
                np.mgrid[:size, :size] + size * np.array([down, right])[:, None, None]
            )
            along = y * np.cos(angle) + x * np.sin(angle)
            across = x * np.cos(angle) - y * np.sin(angle)
            bump = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
            envelope += bump
            wave += bump * np.exp(1j * frequency * along)
    wave -= wave.sum() / envelope.sum() * envelope
    return wave * slant / (2 * np.pi * sigma**2)


@functools.cache
def _window(size):
    """Returns the Gaussian average at every fourth place, (size / 4, size)."""
    sigma = 0.8 * 2 ** (SCALES - 1)
    offsets = np.arange(size) - np.arange(0, size, STRIDE)[:, None]
    copies = [np.exp(-((offsets + size * k) ** 2) / (2 * sigma**2)) for k in _PERIODS]
    return (sum(copies) / np.sqrt(2 * np.pi * sigma**2)).astype(np.float32)
