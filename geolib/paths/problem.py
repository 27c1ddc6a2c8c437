"""The boundary value problem that a solver gets, and the solution that it returns."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from geolib.curves import straight
from geolib.paths.interpolant import Curve
from geolib.paths.starts.graph import LatentGraph
from geolib.riemannian import RiemannianMetric


@dataclass(frozen=True)
class Problem:
    """A batch of boundary value problems, checked and broadcast; start and end differ in every row."""

    metric: RiemannianMetric
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
    graph: Callable[[], LatentGraph]
    """the graph of the caller's latents, built when it is first asked for; ValueError where none were given"""

    def points(self, n_segments: int | None = None) -> Tensor:
        """Where the curves begin, at equal steps of t: ``(B, n_segments + 1, d)``; by default as many as asked for."""
        n_segments = n_segments or self.n_segments
        return straight(self.start, self.end, n_segments) if self.init is None else resampled(self.init, n_segments)


@dataclass(frozen=True)
class Solution:
    """Curves of a batch, and how each ended (``CONVERGED`` or the reason why not)."""

    curve: Curve
    """batch of B"""
    status: Tensor
    """(B,), codes of ``Status``"""
    n_steps: Tensor
    """(B,)"""
    solver_length: Tensor
    """(B,), the length on the solver's own points"""

    @classmethod
    def through(cls, problem: Problem, points: Tensor, status: Tensor, n_steps: Tensor) -> "Solution":
        """The curves through points ``(B, N + 1, d)`` at equal steps of t, whose ends are made exact."""
        points[:, 0], points[:, -1] = problem.start, problem.end
        return cls(Curve.through(points), status, n_steps, problem.metric.length(points))


def resampled(points: Tensor, n_segments: int) -> Tensor:
    """Points ``(b, n_segments + 1, d)`` of the curves through ``points (b, N + 1, d)``, at equal steps of t."""
    if points.shape[1] == n_segments + 1:
        return points.clone()
    return Curve.through(points).even_points(n_segments)
