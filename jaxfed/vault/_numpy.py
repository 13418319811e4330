"""NumPy, or on a machine without it the part that tabular models need, over lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
else:
    try:
        import numpy as np
    except ImportError:
        from jaxfed.vault import _lists_functions as np

HAS_NUMPY = np.__name__ == "numpy"
