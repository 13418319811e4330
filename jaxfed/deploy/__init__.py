"""Deployment: the same algorithm on real clients, who keep their data."""

from jaxfed.deploy._export import export as export
