"""The method of Michelis & Becker 2021: minimise the path energy of a cubic B-spline that is refined step by step."""

import torch
from torch import Tensor

from geolib import checks
from geolib.curves import energy_and_gradient
from geolib.paths.interpolant import Curve
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Status
from geolib.solvers.descent import inverse_mean_metric, minimise
from geolib.spline import CubicBSpline, basis, fitted, line

_METRIC_SAMPLES = 8  # points of a curve whose mean metric scales the descent
_MIN_INTERVALS = 8  # a coarser curve may be unable to bend around obstacles, and is never called converged


def solve(problem: Problem, *, max_control_points: int = 67) -> Solution:
    r"""Minimise :math:`\int |\gamma'|_M^2 dt` over the control points of B-splines with fixed ends.

    A curve begins with two free control points. When its energy stops falling, a knot is inserted in the middle of each
    knot interval (the paper's rule, repeated until the knots are even again, which treats a curve and its reverse
    alike). A curve is done when this refinement shortens it by less than ``rtol``.

    Args:
        problem: end points, initial curves and tolerances. The quadrature has ``n_segments`` segments, or two per knot
            interval if that is more.
        max_control_points: largest number of control points per curve; 4, 5, 7, 11, 19, 35 ... are reached.

    Source:
        Michelis & Becker 2021, Sec. 2.1 and App. A, with two deviations. The paper adds one knot at a time, and follows
        the plain gradient; here the minimiser is L-BFGS, preconditioned by the spline's stiffness matrix.
    """
    checks.integer("max_control_points", max_control_points, at_least=4)
    batch = _Batch(problem, _initial_curve(problem, max_control_points), max_control_points)
    batch.descend_and_refine()
    everyone = torch.arange(len(batch.status), device=batch.status.device)
    # even knots cut the spline into cubics on equal intervals
    curve = Curve.of_spline(batch.curve, _n_intervals(batch.curve))
    return Solution(curve, batch.status, batch.n_steps, batch.lengths(everyone))


def _initial_curve(problem: Problem, max_control_points: int) -> CubicBSpline:
    if problem.init is None:
        return line(problem.start, problem.end)
    # an initial curve is fitted at the finest level that even knots allow; a fit with a control point for every point
    # has other knots
    n_intervals = 1
    while 2 * n_intervals + 3 <= min(max_control_points, problem.init.shape[-2] - 1):
        n_intervals *= 2
    return fitted(problem.init, n_intervals + 3)


def _n_intervals(curve: CubicBSpline) -> int:
    return curve.control_points.shape[-2] - 3


class _Batch:
    """Curves that are minimised and refined together on one quadrature, and the status of each."""

    def __init__(self, problem: Problem, curve: CubicBSpline, max_control_points: int):
        self.problem, self.curve, self.max_control_points = problem, curve, max_control_points
        self.n_steps = torch.zeros_like(problem.max_steps)
        self.status = torch.full_like(problem.max_steps, Status.MAX_STEPS)

    @property
    def t(self) -> Tensor:
        """The quadrature's parameters, with at least two segments per knot interval."""
        n_segments = max(self.problem.n_segments, 2 * _n_intervals(self.curve))
        return torch.linspace(0, 1, n_segments + 1, dtype=self.curve.knots.dtype, device=self.curve.knots.device)

    def lengths(self, index: Tensor) -> Tensor:
        """Lengths ``(b,)`` by the quadrature."""
        return self.problem.metric.length(self.curve[index](self.t))

    def descend_and_refine(self) -> None:
        """Minimise and refine until every curve is done or has used up its knots or steps."""
        active = torch.arange(len(self.status), device=self.status.device)
        while len(active):
            n_intervals = _n_intervals(self.curve)
            may_be_done = n_intervals >= min(_MIN_INTERVALS, self.max_control_points - 3) and n_intervals > 1
            before = self.lengths(active) if may_be_done else None
            settled = self.descend(active)
            self.status[active] = torch.where(settled, Status.MAX_CONTROL_POINTS, Status.MAX_STEPS)
            going_on = settled
            if before is not None:
                # a length that rises while the energy falls has not converged either
                done = settled & ((before - self.lengths(active)).abs() <= self.problem.rtol * before)
                self.status[active[done]] = Status.CONVERGED
                going_on = settled & ~done
            if 2 * n_intervals + 3 > self.max_control_points:
                return
            active = active[going_on]
            if len(active):
                for _ in range(n_intervals):
                    self.curve = self.curve.insert_knot()

    def descend(self, active: Tensor) -> Tensor:
        """Minimise the energy over the free control points. Returns whether each curve settled ``(b,)``."""
        part = self.curve[active]
        P = part.control_points
        n_curves, n_control, d = P.shape
        t = self.t
        N = basis(part.knots, t)  # (n_segments + 1, n_control)
        ends = N[:, [0, -1]] @ P[:, [0, -1]]
        inner = N[:, 1:-1]
        flexibility = torch.linalg.inv(2 * (len(t) - 1) * inner.diff(dim=0).T @ inner.diff(dim=0))
        few = torch.linspace(0, 1, _METRIC_SAMPLES, dtype=t.dtype, device=t.device)
        inverse_metric = inverse_mean_metric(self.problem.metric, part(few))

        def objective(unknowns: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            points = inner @ unknowns.reshape(len(index), n_control - 2, d) + ends[index]
            energy, gradient = energy_and_gradient(self.problem.metric, points)
            return energy, (inner.T @ gradient).reshape(len(index), -1)

        def precondition(gradient: Tensor, index: Tensor) -> Tensor:
            shaped = gradient.reshape(len(index), n_control - 2, d)
            return (flexibility @ shaped @ inverse_metric[index]).reshape(len(index), -1)

        found = minimise(
            objective,
            P[:, 1:-1].reshape(n_curves, -1),
            precondition=precondition,
            tolerance=self.problem.rtol / 16,
            max_steps=self.problem.max_steps[active] - self.n_steps[active],
        )
        self.n_steps[active] += found.n_steps
        free = found.unknowns.reshape(n_curves, n_control - 2, d)
        control_points = self.curve.control_points.clone()
        control_points[active, 1:-1] = free
        self.curve = CubicBSpline.trusted(control_points, self.curve.knots)
        return found.settled
