"""Tensors as arrays for NumPy and SciPy, which compute on the CPU in float64."""

import numpy as np
from torch import Tensor


def to_numpy(x: Tensor) -> np.ndarray:
    """The values of ``x`` as a float64 array, without their gradients."""
    return x.detach().cpu().double().numpy()
