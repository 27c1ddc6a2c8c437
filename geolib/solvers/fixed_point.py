"""The geodesic equation by fixed-point iteration, with the curve as a Gaussian process."""

from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import checks
from geolib.curves import straight
from geolib.paths.equation import acceleration
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Status
from geolib.riemannian import RiemannianMetric

_NOISE = 1e-10  # variance of the noise on the accelerations, relative to their prior variance
_BOLDER, _SHORTER = 1.5, 0.5
_LEAST_SHARE = 1e-4  # of the step to the equation's accelerations; a curve that needs a smaller one has diverged


def solve(problem: Problem, *, n_nodes: int | None = None, lengthscale: float | None = None) -> Solution:
    r"""Iterate :math:`c'' \leftarrow -\Gamma(c', c')` at nodes, with the mean of a Gaussian process as the curve.

    The prior mean is the straight line and the kernel is squared exponential. The curve is the mean conditioned on both
    ends and on the accelerations y at the nodes: :math:`c = m + A y`. An iteration moves y towards the accelerations
    that the geodesic equation gives on this curve, by a share that grows after a success and shrinks after a failure.
    No Jacobian is needed.

    Args:
        problem: end points and initial curves.
        n_nodes: number of nodes, at equal steps of t; by default one for every second segment, and at least 9.
        lengthscale: length scale of the kernel, in units of t; by default three times the distance between nodes.

    Source:
        Arvanitidis et al. 2019, "Fast and Robust Shortest Paths on Manifolds Learned from Data", Sec. 3.
    """
    n_nodes = max(9, problem.n_segments // 2 + 1) if n_nodes is None else n_nodes
    checks.integer("n_nodes", n_nodes, at_least=4)
    lengthscale = checks.positive("lengthscale", 3 / (n_nodes - 1) if lengthscale is None else lengthscale)
    like = problem.start
    process = _Process(n_nodes, lengthscale, problem.n_segments, like)
    line = problem.end - problem.start
    y = process.accelerations(problem)
    curve = _Curve(problem.metric, problem.start, line, process)
    residual, wanted = curve.residual(y)
    checks.finite("metric along the initial curve", residual)
    share = torch.ones_like(residual)
    n_steps = torch.zeros_like(problem.max_steps)
    status = torch.full_like(problem.max_steps, Status.MAX_STEPS)
    active = torch.arange(len(line), device=like.device)
    while True:
        # the relative error in length is about the square of the residual
        good = residual[active] <= 0.1 * problem.rtol**0.5
        lost = ~good & (share[active] < _LEAST_SHARE)
        status[active[good]], status[active[lost]] = Status.CONVERGED, Status.DIVERGED
        active = active[~good & ~lost]
        active = active[n_steps[active] < problem.max_steps[active]]
        if not len(active):
            break
        trial = torch.lerp(y[active], wanted[active], share[active, None, None])
        new_residual, new_wanted = curve.rows(active).residual(trial)
        n_steps[active] += 1
        better = new_residual < residual[active]  # false for NaN
        share[active] = torch.where(better, (share[active] * _BOLDER).clamp(max=1), share[active] * _SHORTER)
        moved = active[better]
        y[moved], residual[moved], wanted[moved] = trial[better], new_residual[better], new_wanted[better]
    return Solution.through(problem, curve.points(y), status, n_steps)


class _Process:
    """The linear maps from accelerations at the nodes to the curve, the same for all curves of a batch.

    ``at_nodes`` and ``velocity`` give deviations from the straight line at the nodes, ``even`` at equal steps of t.
    They are computed in float64, because the kernel's matrix is nearly singular.
    """

    def __init__(self, n_nodes: int, lengthscale: float, n_segments: int, like: Tensor):
        nodes, even = (torch.linspace(0, 1, n, dtype=torch.float64) for n in (n_nodes, n_segments + 1))
        ends = nodes[[0, -1]]

        def kernel(s: Tensor, t: Tensor, a: int, b: int) -> Tensor:
            """The covariance of the a-th derivative at s with the b-th at t."""
            return (-1) ** b * _derivative((s[:, None] - t[None]) / lengthscale, a + b) / lengthscale ** (a + b)

        def with_data(s: Tensor, a: int) -> Tensor:
            return torch.cat([kernel(s, nodes, a, 2), kernel(s, ends, a, 0)], dim=-1)

        data = torch.cat([with_data(nodes, 2), with_data(ends, 0)])
        noise = torch.full((n_nodes,), _NOISE * 3 / lengthscale**4, dtype=torch.float64)  # k''''(0) = 3 / l^4
        data += torch.diag(torch.cat([noise, noise.new_zeros(2)]))
        # the ends do not deviate from the line, so only the accelerations' columns are needed
        weights = torch.linalg.inv(data)[:, :n_nodes]
        self.at_nodes, self.velocity, self.even = (
            (with_data(s, a) @ weights).to(like) for s, a in ((nodes, 0), (nodes, 1), (even, 0))
        )
        self.nodes, self.t = nodes.to(like), even.to(like)

    def accelerations(self, problem: Problem) -> Tensor:
        """The accelerations ``(B, n_nodes, d)`` whose curves are nearest to the initial curves, in least squares."""
        y = problem.start.new_zeros(len(problem.start), len(self.nodes), problem.start.shape[-1])
        if problem.init is None:
            return y
        away = problem.points() - straight(problem.start, problem.end, problem.n_segments)
        return torch.linalg.pinv(self.even.double(), rtol=1e-6).to(away) @ away


def _derivative(r: Tensor, n: int) -> Tensor:
    """The n-th derivative of exp(-r^2 / 2), by Hermite polynomials."""
    before, now = torch.zeros_like(r), torch.ones_like(r)
    for k in range(n):
        before, now = now, r * now - k * before
    return (-1) ** n * now * torch.exp(-(r**2) / 2)


@dataclass(frozen=True)
class _Curve:
    """A batch of curves as functions of their accelerations."""

    metric: RiemannianMetric
    start: Tensor
    line: Tensor
    process: _Process

    def rows(self, rows: Tensor) -> "_Curve":
        """The curves with these indices."""
        return _Curve(self.metric, self.start[rows], self.line[rows], self.process)

    def points(self, y: Tensor) -> Tensor:
        """Points ``(b, n_segments + 1, d)`` at equal steps of t."""
        return self.start[:, None] + self.process.t[:, None] * self.line[:, None] + self.process.even @ y

    def residual(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The residual ``(b,)`` of accelerations y ``(b, n, d)`` relative to the speed, and the next accelerations.

        Residual and speed are root mean squares over the nodes, in the norm of the metric.
        """
        p = self.process
        z = self.start[:, None] + p.nodes[:, None] * self.line[:, None] + p.at_nodes @ y
        v = self.line[:, None] + p.velocity @ y
        flat, d = z.flatten(0, 1), z.shape[-1]
        wanted = acceleration(self.metric, flat, v.flatten(0, 1)).reshape(y.shape)
        M = self.metric.unchecked(flat).reshape(*z.shape, d)
        miss = wanted - y
        over = torch.einsum("bni,bnij,bnj->bn", miss, M, miss).mean(-1)
        under = torch.einsum("bni,bnij,bnj->bn", v, M, v).mean(-1)
        return (over.clamp_min(0) / under.clamp_min(torch.finfo(y.dtype).tiny)).sqrt(), wanted
