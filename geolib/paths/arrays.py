"""Arrays for NumPy and SciPy, which compute on the CPU in float64, and metric tensors that can be inverted."""

import numpy as np
import torch
from torch import Tensor


def to_numpy(x: Tensor) -> np.ndarray:
    """The values of ``x`` as a float64 array, without their gradients."""
    return x.detach().cpu().double().numpy()


def regular(M: Tensor) -> Tensor:
    """M with a multiple of the identity at the rounding floor, which keeps it from being singular.

    A Gram matrix is rounded in proportion to its largest eigenvalue, which in low rank is many times their mean.
    """
    level = (10 * torch.finfo(M.dtype).eps * M.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp_min(torch.finfo(M.dtype).tiny)
    return M + level[..., None, None] * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
