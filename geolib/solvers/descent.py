"""Batched descent: limited-memory BFGS with a preconditioner and a line search per problem."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import checks
from geolib.riemannian import RiemannianMetric
from geolib.solvers.backtracking import backtrack

# value (b,) and gradient (b, m) of the problems with these indices (b,) at these unknowns (b, m)
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# the inverse of an approximate Hessian of the problems with these indices, applied to (b, m)
Preconditioner = Callable[[Tensor, Tensor], Tensor]

_CUT = 0.5  # a step that does not lower the value enough is halved


@dataclass
class Descent:
    """The result of a descent for each problem of a batch."""

    unknowns: Tensor
    """(B, m)"""
    value: Tensor
    """(B,)"""
    n_steps: Tensor
    """(B,), accepted steps"""
    settled: Tensor
    """(B,), whether the value stopped falling before the steps ran out"""


def minimise(
    objective: Objective,
    unknowns: Tensor,
    *,
    precondition: Preconditioner,
    tolerance: float,
    max_steps: Tensor,
    memory: int = 8,
) -> Descent:
    """Minimise a batch of independent smooth functions; values never rise.

    A problem is done when each of two successive steps lowers its value by less than ``tolerance`` times the value,
    when no step along the preconditioned gradient lowers it, or after its ``max_steps``.

    Args:
        objective: values and gradients.
        unknowns: initial values ``(B, m)``.
        precondition: approximate inverse Hessian, positive definite.
        tolerance: relative decrease per step.
        max_steps: ``(B,)``.
        memory: number of past steps that approximate the Hessian.

    Source:
        Liu & Nocedal 1989. Steps along which the curvature is not positive are left out of the approximation.
    """
    n_problems = len(unknowns)
    x = unknowns.clone()
    index = torch.arange(n_problems, device=x.device)
    value, gradient = objective(x, index)
    checks.finite("metric along the initial curve", value)
    n_steps = torch.zeros(n_problems, dtype=torch.long, device=x.device)
    quiet = torch.zeros_like(n_steps)
    settled = torch.zeros(n_problems, dtype=torch.bool, device=x.device)
    fresh = torch.ones(n_problems, dtype=torch.bool, device=x.device)
    steps, changes, curvatures = [], [], []  # each (B, m), (B, m), (B,)

    active = index[max_steps > 0]
    while len(active):
        direction = -_two_loops(gradient[active], active, steps, changes, curvatures, precondition)
        slope = (direction * gradient[active]).sum(-1)
        # rounding can make a direction point uphill; then the preconditioned gradient replaces it
        uphill = slope >= 0
        if bool(uphill.any()):
            direction[uphill] = -precondition(gradient[active[uphill]], active[uphill])
            slope = (direction * gradient[active]).sum(-1)
        search = backtrack(
            lambda trial, rows, active=active: objective(trial, active[rows]),
            x[active],
            (value[active], gradient[active]),
            direction,
            slope,
            torch.ones_like(slope),
            cuts=(_CUT, _CUT),
        )
        new_x, (new_value, new_gradient) = search.unknowns, search.state
        step, change = torch.zeros_like(x), torch.zeros_like(x)
        step[active], change[active] = new_x - x[active], new_gradient - gradient[active]
        product = (step * change).sum(-1)
        useful = product > torch.finfo(x.dtype).eps * step.norm(dim=-1) * change.norm(dim=-1)
        steps, changes = [*steps, step][-memory:], [*changes, change][-memory:]
        curvatures = [*curvatures, torch.where(useful, 1 / torch.where(useful, product, 1.0), 0.0)][-memory:]

        moved = active[search.accepted]
        small = value[moved] - new_value[search.accepted] <= tolerance * value[moved].abs()
        quiet[moved] = torch.where(small, quiet[moved] + 1, 0)
        x[active], value[active], gradient[active] = new_x, new_value, new_gradient
        n_steps[moved] += 1
        fresh[moved] = False

        # A failed search is repeated once along the preconditioned gradient, without the past steps.
        failed = active[~search.accepted]
        give_up, retry = failed[fresh[failed]], failed[~fresh[failed]]
        for curvature in curvatures:
            curvature[retry] = 0
        fresh[retry] = True
        settled[give_up] = True
        settled[moved] = quiet[moved] >= 2
        active = active[~settled[active] & (n_steps[active] < max_steps[active])]
    return Descent(x, value, n_steps, settled)


def inverse_mean_metric(metric: RiemannianMetric, points: Tensor) -> Tensor:
    """The inverse ``(B, d, d)`` of the metric's mean over the points of each curve ``(B, n, d)``.

    Eigenvalues of the mean are raised to at least 1e-3 of the largest. The inverse scales the steps of a descent.
    """
    M = torch.stack([metric(z) for z in points.unbind(1)]).mean(0)
    values, vectors = torch.linalg.eigh(M)
    values = values.clamp_min(1e-3 * values[:, -1:]).clamp_min(torch.finfo(M.dtype).tiny)
    return vectors @ (vectors.mT / values.unsqueeze(-1))


def _two_loops(
    gradient: Tensor,
    active: Tensor,
    steps: list[Tensor],
    changes: list[Tensor],
    curvatures: list[Tensor],
    precondition: Preconditioner,
) -> Tensor:
    """Apply the approximate inverse Hessian to ``gradient (b, m)``; past steps with curvature zero have no effect."""
    q = gradient.clone()
    weights = []
    for s, y, rho in zip(reversed(steps), reversed(changes), reversed(curvatures), strict=True):
        a = rho[active] * (s[active] * q).sum(-1)
        q -= a.unsqueeze(-1) * y[active]
        weights.append(a)
    r = precondition(q, active)
    if steps:
        # scale the preconditioner to the curvature along the latest step
        s, y, rho = steps[-1][active], changes[-1][active], curvatures[-1][active]
        expected = (y * precondition(y, active)).sum(-1)
        known = (rho > 0) & (expected > 0)
        r = r * torch.where(known, (s * y).sum(-1) / torch.where(known, expected, 1.0), 1.0).unsqueeze(-1)
    for s, y, rho, a in zip(steps, changes, curvatures, reversed(weights), strict=True):
        b = rho[active] * (y[active] * r).sum(-1)
        r += (a - b).unsqueeze(-1) * s[active]
    return r
