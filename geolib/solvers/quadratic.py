"""Quadratic curves that minimise the closed-form expected energy of a stochastic generator."""

from collections.abc import Callable

import torch
from torch import Tensor

from geolib import checks
from geolib.curves import energy_and_gradient, straight
from geolib.paths.interpolant import Curve
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Status
from geolib.riemannian import ImmersedMetric, RiemannianMetric
from geolib.solvers.descent import Descent, inverse_mean_metric, minimise

NOISES = ("shared", "independent")
# points (b, N + 1, d) to values (b,) and their gradients (b, N + 1, d)
Energy = Callable[[Tensor], tuple[Tensor, Tensor]]


def solve(problem: Problem, *, warm_start: bool = False, noise: str = "shared") -> Solution:
    r"""Minimise the expected energy over h in the curves :math:`c(t) = (1 - t) z_0 + t z_1 + 4 t (1 - t) h`.

    The expected squared distance of neighbouring points of a stochastic generator (Eq. 4) has a closed form. With one
    noise per curve it is :math:`|\Delta \mu|^2 + |\Delta \sigma|^2`; its limit for many points is Eq. 3, the path
    energy of the expected metric. With one noise per point it is
    :math:`|\Delta \mu|^2 + |\sigma_n|^2 + |\sigma_{n+1}|^2`, which has no such limit: on finer curves the terms in
    sigma dominate.

    Args:
        problem: end points and initial curves, which are replaced by the nearest quadratics.
        warm_start: first maximise the precision along the curve (Eq. 6), which needs no decoder. ``std`` must be an
            ``RBFPrecision`` or have the same method ``precision``.
        noise: ``"shared"`` (one noise per curve) or ``"independent"`` (one per point), which needs a metric with
            ``std`` and without ``features``.

    Source:
        Yang & Hauberg 2018, Eqs. 4 to 6. The minimiser here is L-BFGS.
    """
    checks.one_of("noise", noise, NOISES)
    metric = problem.metric
    if noise == "independent" and (metric.std is None or metric.features is not None):
        raise ValueError("noise: got 'independent', which needs a metric of mean and std alone; expected 'shared'")
    curves = _Quadratics(problem)
    h, taken = curves.first, torch.zeros_like(problem.max_steps)
    if warm_start:
        precision = _precision(metric)
        warm = curves.minimise(lambda points: _minus_log_precision(precision, points), h, problem.max_steps)
        h, taken = warm.unknowns, warm.n_steps
    energy = energy_and_gradient if noise == "shared" else _independent_energy
    found = curves.minimise(lambda points: energy(metric, points), h, problem.max_steps - taken)
    status = torch.where(found.settled, Status.BEST_OF_ITS_KIND, Status.MAX_STEPS)
    middle = curves.points(found.unknowns, torch.full_like(curves.t[:1], 0.5))[:, 0]
    curve = Curve.through(torch.stack([problem.start, middle, problem.end], dim=1))
    return Solution(curve, status, taken + found.n_steps, metric.length(curve.even_points(problem.n_segments)))


class _Quadratics:
    """A batch of quadratics with coefficients h ``(B, d)``."""

    def __init__(self, problem: Problem):
        self.start, self.end, self.rtol = problem.start, problem.end, problem.rtol
        self.t = torch.linspace(0, 1, problem.n_segments + 1, dtype=self.start.dtype, device=self.start.device)
        self.shape = 4 * self.t * (1 - self.t)
        self.line = straight(self.start, self.end, problem.n_segments)
        self.first = torch.einsum("n,bnd->bd", self.shape, problem.points() - self.line) / self.shape.square().sum()
        self.inverse_metric = inverse_mean_metric(problem.metric, self.points(self.first, self.t[::4]))

    def points(self, h: Tensor, t: Tensor) -> Tensor:
        """Points ``(B, T, d)`` at ``t (T,)``."""
        line = torch.lerp(self.start.unsqueeze(1), self.end.unsqueeze(1), t.unsqueeze(-1))
        return line + (4 * t * (1 - t)).unsqueeze(-1) * h.unsqueeze(1)

    def minimise(self, energy: Energy, h: Tensor, max_steps: Tensor) -> Descent:
        """Minimise ``energy`` from ``h``, preconditioned by the inverse of the Hessian in a flat space, 32/3 M."""

        def objective(unknowns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = energy(self.line[rows] + self.shape.unsqueeze(-1) * unknowns.unsqueeze(1))
            return value, torch.einsum("n,bnd->bd", self.shape, slope)

        def precondition(slope: Tensor, rows: Tensor) -> Tensor:
            return (self.inverse_metric[rows] @ slope.unsqueeze(-1)).squeeze(-1) * 3 / 32

        return minimise(objective, h, precondition=precondition, tolerance=self.rtol / 16, max_steps=max_steps)


def _precision(metric: RiemannianMetric) -> Callable[[Tensor], Tensor]:
    """The precision function of the metric's ``std``; ValueError where it has none."""
    precision = getattr(metric.std, "precision", None)
    if not callable(precision):
        raise ValueError("warm_start: got True for a metric whose std has no precision, expected an RBFPrecision")
    return precision


def _independent_energy(metric: ImmersedMetric, points: Tensor) -> tuple[Tensor, Tensor]:
    """The expected energy with one noise per point ``(b,)``, and its gradient."""

    def energy(z: Tensor) -> Tensor:
        mean, std = metric.immersion(z).chunk(2, dim=-1)
        variance = std.square().sum(-1)
        squares = mean.diff(dim=1).square().sum(-1) + variance[:, :-1] + variance[:, 1:]
        return (z.shape[1] - 1) * squares.sum(-1)

    return _with_gradient(energy, points)


def _minus_log_precision(precision: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the mean along the curve of log g, where g is the mean precision of the outputs, and its gradient.

    The logarithm gives weight to the points where g is small.
    """
    return _with_gradient(lambda z: -precision(z).mean(-1).log().mean(-1), points)


def _with_gradient(function: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``(b,)`` of a function of curves ``(b, N + 1, d)``, and their gradients ``(b, N + 1, d)``."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        value = function(points)
        (slope,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), slope
