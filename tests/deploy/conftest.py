"""Models of other libraries promote dtypes as they like."""

import jax
import pytest


@pytest.fixture
def free_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
