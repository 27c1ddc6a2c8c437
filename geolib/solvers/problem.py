"""What a solver is given and what it returns."""

from dataclasses import dataclass

from torch import Tensor

from geolib.curves import Metric
from geolib.spline import CubicBSpline


@dataclass(frozen=True)
class Problem:
    """A batch of boundary value problems, checked and broadcast; start and end differ in every row."""

    metric: Metric
    start: Tensor
    """(B, d)"""
    end: Tensor
    """(B, d)"""
    init: Tensor | None
    """initial points (B, n + 1, d) at equal steps of t, or None for the straight line"""
    n_segments: int
    rtol: float
    """relative change of a curve's length below which it is done"""
    max_steps: Tensor
    """(B,)"""


@dataclass(frozen=True)
class Solution:
    """Curves of a batch, and how each ended (``CONVERGED`` or the reason why not)."""

    curve: CubicBSpline
    """batch of B"""
    status: Tensor
    """(B,), codes of ``Status``"""
    n_steps: Tensor
    """(B,)"""
    seen: Tensor
    """(B,), the length as the solver's own points see it"""
