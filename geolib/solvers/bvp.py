"""The geodesic equation as a two-point boundary value problem, solved by SciPy's collocation."""

import numpy as np
import torch
from scipy.integrate import solve_bvp
from torch import Tensor

from geolib import checks
from geolib.paths.arrays import to_numpy
from geolib.paths.equation import DIFFERENCE, acceleration
from geolib.paths.interpolant import Curve
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Status
from geolib.riemannian import RiemannianMetric

# by the status codes of scipy.integrate.solve_bvp
_OUTCOMES = {0: Status.CONVERGED, 1: Status.MAX_NODES, 2: Status.DIVERGED, 3: Status.DIVERGED}


class _OutOfSteps(Exception):
    """Raised in a callback to leave SciPy's loop when the steps are used up."""


class _NotFinite(Exception):
    """Raised in a callback when the iteration has left the region where the metric is finite."""


def solve(problem: Problem, *, max_nodes: int = 1000) -> Solution:
    r"""Solve :math:`z'' = -\Gamma(z', z')` for given end points, one pair at a time.

    The method is collocation of fourth order on an adaptive mesh, in float64; the metric is evaluated in the caller's
    precision. A step is one linearisation on the whole mesh. A curve that has converged is accurate, but need not be
    the shortest geodesic. The iteration may also diverge, because Newton's method on the equation does not minimise
    anything.

    Args:
        problem: end points and initial curves.
        max_nodes: largest number of mesh nodes per curve.

    Source:
        Arvanitidis et al. 2018, Sec. 3 (the equation, solved by Matlab's bvp5c); Kierzenka & Shampine 2001.
    """
    checks.integer("max_nodes", max_nodes, at_least=5)
    first = problem.points(min(problem.n_segments, max_nodes - 1))
    found = [_Pair(problem, row, first[row]).solve(max_nodes) for row in range(len(problem.start))]
    curves, status, n_steps = zip(*found, strict=True)
    n_segments = problem.n_segments
    while n_segments < max(n for _, n in curves) and n_segments < 8 * problem.n_segments:
        n_segments *= 2
    t = np.linspace(0, 1, n_segments + 1)
    points = torch.stack([torch.from_numpy(np.stack(curve(t), axis=-1)) for curve, _ in curves]).to(problem.start)
    return Solution.through(problem, points, *(torch.tensor(x).to(problem.max_steps) for x in (status, n_steps)))


class _Pair:
    """One pair of points: the equation, its derivatives and the state of the iteration."""

    def __init__(self, problem: Problem, row: int, points: Tensor):
        self.metric: RiemannianMetric = problem.metric
        self.like = problem.start[row]  # dtype and device of the metric's arguments
        self.start, self.end = to_numpy(problem.start[row]), to_numpy(problem.end[row])
        self.max_steps = int(problem.max_steps[row])
        self.tolerance = 0.1 * problem.rtol**0.5  # of the equation; the relative error in length is about its square
        self.t = np.linspace(0, 1, len(points))
        self.first = np.concatenate([to_numpy(points).T, to_numpy(Curve.through(points).slopes).T])
        self.calls = 0
        self.latest = self.t, self.first  # the last state that was linearised

    def solve(self, max_nodes: int) -> tuple[tuple, int, int]:
        """The curve as a function of t with its number of mesh intervals, its status and its number of steps."""
        try:
            with np.errstate(all="ignore"):
                found = solve_bvp(
                    self._equation,
                    self._ends,
                    self.t,
                    self.first,
                    fun_jac=self._derivatives,
                    tol=self.tolerance,
                    bc_tol=self.tolerance,
                    max_nodes=max_nodes,
                )
        except _OutOfSteps:
            return self._interrupted(Status.MAX_STEPS)
        except _NotFinite:
            return self._interrupted(Status.DIVERGED)
        d = len(self.start)
        return (lambda t: found.sol(t)[:d], len(found.x) - 1), _OUTCOMES[found.status], self.n_steps

    @property
    def n_steps(self) -> int:
        """Number of linearisations: SciPy asks for derivatives twice per step, at the nodes and at their midpoints."""
        return (self.calls + 1) // 2

    def _interrupted(self, status: Status) -> tuple[tuple, int, int]:
        t, y = self.latest
        d = len(self.start)
        return (lambda at: np.stack([np.interp(at, t, row) for row in y[:d]]), len(t) - 1), status, self.n_steps

    def _ends(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        d = len(self.start)
        return np.concatenate([first[:d] - self.start, last[:d] - self.end])

    def _acceleration(self, z: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The acceleration ``(d, n)`` at positions and velocities ``(d, n)``."""
        a = to_numpy(acceleration(self.metric, *(torch.from_numpy(x.T.copy()).to(self.like) for x in (z, v)))).T
        if not np.isfinite(a).all():
            raise _NotFinite
        return a

    def _equation(self, t: np.ndarray, y: np.ndarray) -> np.ndarray:
        d = len(self.start)
        return np.concatenate([y[d:], self._acceleration(y[:d], y[d:])])

    def _derivatives(self, t: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Derivatives of the right side in the state ``(2 d, 2 d, n)``, by central differences in one batch."""
        if self.calls == 2 * self.max_steps:
            raise _OutOfSteps
        if self.calls % 2 == 0:
            self.latest = t, y
        self.calls += 1
        d, n = len(self.start), len(t)
        z, v = y[:d], y[d:]
        eye = np.eye(d)[:, :, None]
        h = DIFFERENCE[self.like.dtype] * max(1e-3, np.abs(z).max())
        # the acceleration is quadratic in the velocity, so central differences of any size are exact there
        k = max(np.abs(v).max(), np.finfo(float).tiny)
        states = np.concatenate([z + h * eye, z - h * eye, *[np.broadcast_to(z, (d, d, n))] * 2])
        velocities = np.concatenate([*[np.broadcast_to(v, (d, d, n))] * 2, v + k * eye, v - k * eye])
        a = self._acceleration(*(x.transpose(1, 0, 2).reshape(d, -1) for x in (states, velocities)))
        a = a.reshape(d, 4, d, n)
        out = np.zeros((2 * d, 2 * d, n))
        out[:d, d:] = eye
        out[d:, :d] = (a[:, 0] - a[:, 1]) / (2 * h)
        out[d:, d:] = (a[:, 2] - a[:, 3]) / (2 * k)
        return out
