"""GEORCE: the discrete curve as an optimal control problem whose linearisation has a closed-form solution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import checks
from geolib.paths.arrays import regular
from geolib.paths.interpolant import Curve
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Status
from geolib.riemannian import RiemannianMetric
from geolib.solvers.backtracking import backtrack

_LAST_GAIN = 0.1  # times rtol: a curve has converged when the full step would shorten it by less
_BOLDER = 2  # the next line search begins with so many times the last accepted share, at most the full step


def solve(problem: Problem) -> Solution:
    r"""Minimise :math:`E = \sum_s u_s^T G_s u_s` over the steps :math:`u_s = z_{s+1} - z_s` of curves with fixed ends.

    With the metric G and the forces :math:`\nu_s = \nabla (u_s^T G u_s)` held fixed at the current curve, the optimal
    steps have a closed form: :math:`u_s = -\tfrac12 G_s^{-1} (\mu + \tfrac12 \nu_s + \sum_{j>s} \nu_j)`. The
    multiplier mu is chosen so that the curve ends at its end point. An iteration moves the curve towards this optimum
    by the share that the line search accepts.

    Source:
        Rygaard & Hauberg 2024, Algorithm 1, with two deviations. The metric is taken at the middle of each segment
        instead of its first point: the error falls with N squared instead of N, and a curve and its reverse are treated
        alike. The line search begins with twice the last accepted share and interpolates: the paper's search begins
        with the full step every time and halves it, which makes no progress in front of a wall of variance.
    """
    points = problem.points()
    state = _linearised(problem.metric, points)
    checks.finite("metric along the initial curve", state.energy)
    share = torch.ones_like(state.energy)
    n_steps = torch.zeros_like(problem.max_steps)
    status = torch.full_like(problem.max_steps, Status.MAX_STEPS)
    active = torch.arange(len(points), device=points.device)
    while True:
        active = active[n_steps[active] < problem.max_steps[active]]
        if not len(active):
            break
        here = state[active]
        step, slope = _step(here)
        # the quadratic model predicts that the energy falls by -slope / 2, and the length by half of that in proportion
        small = -slope <= 4 * _LAST_GAIN * problem.rtol * here.energy
        status[active[small]] = Status.CONVERGED
        active, here, step, slope = active[~small], here[~small], step[~small], slope[~small]
        search = backtrack(
            lambda trial, _: (_energy(problem.metric, trial),),
            points[active],
            (here.energy,),
            step,
            slope,
            share[active],
        )
        moved = search.accepted
        share[active] = torch.where(moved, (search.share * _BOLDER).clamp(max=1), search.share)
        points[active] = search.unknowns
        status[active[~moved]] = Status.CONVERGED  # no step lowers the energy any more
        active = active[moved]
        if len(active):
            n_steps[active] += 1
            state.put(active, _linearised(problem.metric, points[active]))
    return Solution(Curve.through(points), status, n_steps, state.length)


@dataclass
class _State:
    """The linearisation of curves: metric, steps and forces of their segments."""

    G: Tensor
    """``(b, N, d, d)``"""
    u: Tensor
    """``(b, N, d)``"""
    nu: Tensor
    """``(b, N, d)``"""

    @property
    def squares(self) -> Tensor:
        """Squared lengths of the segments ``(b, N)``."""
        return torch.einsum("bsi,bsij,bsj->bs", self.u, self.G, self.u)

    @property
    def energy(self) -> Tensor:
        """E ``(b,)``."""
        return self.squares.sum(-1)

    @property
    def length(self) -> Tensor:
        """Lengths ``(b,)``."""
        return self.squares.clamp_min(0).sqrt().sum(-1)

    def __getitem__(self, rows: Tensor) -> "_State":
        return _State(self.G[rows], self.u[rows], self.nu[rows])

    def put(self, rows: Tensor, other: "_State") -> None:
        self.G[rows], self.u[rows], self.nu[rows] = other.G, other.u, other.nu


def _linearised(metric: RiemannianMetric, points: Tensor) -> _State:
    u = points.diff(dim=1)
    G, nu = _metric_and_force(metric, (points[:, :-1] + u / 2).flatten(0, 1), u.flatten(0, 1))
    return _State(G.unflatten(0, u.shape[:2]), u, nu.unflatten(0, u.shape[:2]))


def _metric_and_force(metric: RiemannianMetric, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """G ``(n, d, d)`` at ``z (n, d)``, and the gradient of u^T G u with respect to z ``(n, d)``."""
    tensors, forces = [], []
    size = metric.points_at_once(z)
    for part, step in zip(z.split(size), u.split(size), strict=True):
        with torch.enable_grad():
            at = part.detach().requires_grad_()
            G = metric.unchecked(at)
            square = torch.einsum("ni,nij,nj->", step, G, step)
            force = torch.autograd.grad(square, at, allow_unused=True)[0] if G.requires_grad else None
        tensors.append(G.detach())
        forces.append(torch.zeros_like(part) if force is None else force)
    return torch.cat(tensors), torch.cat(forces)


def _energy(metric: RiemannianMetric, points: Tensor) -> Tensor:
    """E ``(b,)``, which may be infinite or NaN."""
    u = points.diff(dim=1)
    G = metric.unchecked((points[:, :-1] + u / 2).flatten(0, 1))
    return torch.einsum("bsi,bsij,bsj->b", u, G.unflatten(0, u.shape[:2]), u)


def _step(state: _State) -> tuple[Tensor, Tensor]:
    """The step to the linearised problem's solution ``(b, N + 1, d)``, and the energy's slope along it ``(b,)``."""
    force = 2 * (state.G @ state.u.unsqueeze(-1)).squeeze(-1)
    force += state.nu.flip(1).cumsum(1).flip(1) - state.nu / 2
    inverse = torch.linalg.inv(regular(state.G))
    reach = (inverse @ force.unsqueeze(-1)).squeeze(-1).sum(1)
    mu = -torch.linalg.solve(inverse.sum(1), reach)
    change = -(inverse @ (mu.unsqueeze(1) + force).unsqueeze(-1)).squeeze(-1) / 2
    step = torch.cat([torch.zeros_like(change[:, :1]), change.cumsum(1)], dim=1)
    step[:, -1] = 0  # it is zero up to rounding
    return step, (force * change).sum((-2, -1))
