"""The one array type of update codecs."""

import numpy as np
from numpy.typing import NDArray

Float32Vector = NDArray[np.float32]
"""float32, shape (N,), in the order of the parameter schema."""
