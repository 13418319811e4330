"""Settings that every test runs under."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import jax
import pytest

jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=100
)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--nightly`, for what takes too long for every change."""
    parser.addoption("--nightly", action="store_true", help="run exhaustive tests too")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leaves exhaustive tests out unless asked for; puts slow ones first.

    With two workers, a slow test at the end would leave one of them idle.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # stable
    if config.getoption("--nightly"):
        return
    exhaustive = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=exhaustive)
    items[:] = [item for item in items if not item.get_closest_marker("nightly")]
