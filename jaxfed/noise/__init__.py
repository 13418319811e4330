"""Noise for the release of a clipped sum."""

from jaxfed.noise._gaussian import Gaussian as Gaussian
