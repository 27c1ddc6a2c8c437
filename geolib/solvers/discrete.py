"""Gradient descent on the points of discrete curves, the method of the first papers on decoders."""

import torch
from torch import Tensor

from geolib import checks
from geolib.curves import energy_and_gradient
from geolib.paths.interpolant import Curve
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Status
from geolib.solvers.backtracking import backtrack

_REMEMBERED = 10  # a step must lower the energy below the largest of so many past energies
_CUT = 0.25  # a step that does not lower the energy enough is quartered
_QUIET = 10  # convergence is judged over so many steps, as the energy may rise in single ones


def solve(problem: Problem) -> Solution:
    r"""Minimise the discrete energy :math:`\sum_i |z_{i+1} - z_i|_M^2` by descent along its plain gradient.

    Step lengths follow Barzilai & Borwein; they are shortened until the energy falls below the largest of the last ten.
    The number of steps grows with the number of points, because a step passes information only between neighbours.

    Source:
        Shao et al. 2017, Algorithm 1; Laine 2018. Both use one fixed step length. The step lengths used here: Barzilai
        & Borwein 1988; Raydan 1997.
    """
    points = problem.points()
    n_curves = len(points)
    energy, slope = _energy(problem, points)
    checks.finite("metric along the initial curve", energy)
    best, best_points = energy.clone(), points.clone()
    history = energy.unsqueeze(-1).repeat(1, _REMEMBERED)
    size = _first_size(points, energy)
    n_steps = torch.zeros_like(problem.max_steps)
    status = torch.full_like(problem.max_steps, Status.MAX_STEPS)
    before = best.clone()  # the best energy _QUIET steps ago
    active = torch.arange(n_curves, device=points.device)
    while True:
        active = active[(n_steps[active] < problem.max_steps[active])]
        if not len(active):
            break
        search = backtrack(
            lambda trial, _: _energy(problem, trial),
            points[active],
            (energy[active], slope[active]),
            -slope[active],
            -slope[active].square().sum((-2, -1)),
            size[active],
            ceiling=history[active].amax(-1),
            cuts=(_CUT, _CUT),
        )
        moved = search.accepted
        status[active[~moved]] = Status.CONVERGED  # no step along the gradient lowers the energy any more
        active, new_points, new_energy, new_slope = (x[moved] for x in (active, search.unknowns, *search.state))
        size[active] = _next_size(new_points - points[active], new_slope - slope[active], size[active])
        points[active], energy[active], slope[active] = new_points, new_energy, new_slope
        n_steps[active] += 1
        history[active] = torch.cat([history[active, 1:], new_energy.unsqueeze(-1)], dim=-1)
        better = active[new_energy < best[active]]
        best[better], best_points[better] = energy[better], points[better]
        due = active[n_steps[active] % _QUIET == 0]
        # a length's relative change is half its energy's; the factor 4 allows for slow convergence
        quiet = before[due] - best[due] <= problem.rtol / 8 * best[due]
        status[due[quiet]] = Status.CONVERGED
        before[due] = best[due]
        active = active[status[active] != Status.CONVERGED]
    return Solution(Curve.through(best_points), status, n_steps, best.sqrt())


def _energy(problem: Problem, points: Tensor) -> tuple[Tensor, Tensor]:
    """The path energy and its gradient in the inner points; the ends do not move."""
    energy, slope = energy_and_gradient(problem.metric, points)
    slope[:, 0], slope[:, -1] = 0, 0
    return energy, slope


def _first_size(points: Tensor, energy: Tensor) -> Tensor:
    """First step lengths ``(B,)``: the inverse of the curvature that the energy has in a flat space."""
    n_segments = points.shape[1] - 1
    latent = n_segments * points.diff(dim=1).square().sum((-2, -1))
    return latent / energy.clamp_min(torch.finfo(points.dtype).tiny) / (8 * n_segments)


def _next_size(step: Tensor, change: Tensor, size: Tensor) -> Tensor:
    """Barzilai & Borwein's second step length; where the curvature is not positive, twice the last length."""
    product, square = (step * change).sum((-2, -1)), change.square().sum((-2, -1))
    known = (product > 0) & (square > 0)
    return torch.where(known, product / torch.where(known, square, 1.0), 2 * size)
