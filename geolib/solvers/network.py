"""A small neural network as the curve, with an affine map that makes its ends exact."""

import math

import torch
from torch import Tensor

from geolib import checks
from geolib.curves import energy_and_gradient
from geolib.metric import smoothed
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Status
from geolib.riemannian import as_metric
from geolib.solvers.descent import minimise

_SHARPEST = 6.0  # slope of the steepest hidden unit, per unit of t


def solve(problem: Problem, *, n_hidden: int = 16, smoothing: float | None = None) -> Solution:
    r"""Minimise the path energy over the weights of :math:`\hat z(t)`, a network with one layer of hidden tanh units.

    The curve is :math:`z(t) = z_0 + (z_1 - z_0) (\hat z(t) - \hat z(0)) / (\hat z(1) - \hat z(0))` in each coordinate,
    which runs from start to end for any weights. In a coordinate in which start and end agree, such a curve could not
    bend. The formula is therefore applied in reflected coordinates, in all of which start and end differ equally.

    Args:
        problem: end points and initial curves.
        n_hidden: number of hidden units, even.
        smoothing: lambda of ``metric.smoothed``, in units of the metric squared. The energy is then that of the
            smoothed metric; lengths remain those of the metric itself. None for no smoothing.

    Source:
        Chen et al. 2018, Sec. 2. They minimise the length by stochastic gradient descent. Here L-BFGS minimises the
        energy, whose minimum also has constant speed. The network begins as the straight line, or as a fit to the
        initial curve.
    """
    checks.integer("n_hidden", n_hidden, at_least=2)
    if n_hidden % 2:
        raise ValueError(f"n_hidden: got {n_hidden}, expected an even number")
    metric = problem.metric
    if smoothing is not None:
        checks.positive("smoothing", smoothing)
        metric = as_metric(lambda z: smoothed(problem.metric(z), smoothing))

    curves = _Networks(problem, n_hidden)
    scale = energy_and_gradient(metric, curves.points(curves.first, slice(None)))[0]

    def objective(weights: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            weights = weights.detach().requires_grad_()
            points = curves.points(weights, rows)
            energy, slope = energy_and_gradient(metric, points.detach())
            (gradient,) = torch.autograd.grad(points, weights, slope)
        return energy, gradient

    found = minimise(
        objective,
        curves.first,
        precondition=lambda gradient, rows: gradient / (10 * scale[rows, None]),
        tolerance=problem.rtol / 16,
        max_steps=problem.max_steps,
    )
    status = torch.where(found.settled, Status.BEST_OF_ITS_KIND, Status.MAX_STEPS)
    return Solution.through(problem, curves.points(found.unknowns, slice(None)), status, found.n_steps)


class _Networks:
    """A batch of networks of the same architecture, with weights ``(B, m)``."""

    def __init__(self, problem: Problem, n_hidden: int):
        self.start, self.line = problem.start, problem.end - problem.start
        self.n_hidden, self.d = n_hidden, self.line.shape[-1]
        self.turn = _turn(self.line)
        self.t = torch.linspace(0, 1, problem.n_segments + 1, dtype=self.line.dtype, device=self.line.device)
        # hidden units come in mirrored pairs, so that a curve and its reverse are treated alike
        slopes = torch.linspace(1.0, _SHARPEST, n_hidden // 2).to(self.line)
        slopes = torch.cat([slopes, slopes.flip(0)])
        places = torch.linspace(-0.5, 0.5, n_hidden).to(self.line)
        hidden = torch.stack([slopes, -slopes * places])
        out = self._fitted(problem, hidden) if problem.init is not None else self.line.new_zeros(n_hidden, self.d)
        out = out.expand(len(self.line), n_hidden, self.d)
        self.first = torch.cat([hidden.reshape(1, -1).expand(len(self.line), -1), out.flatten(1)], dim=-1)

    def _hidden(self, slopes: Tensor, offsets: Tensor) -> Tensor:
        """Activations ``(..., T, n_hidden)``."""
        centred = self.t[:, None] - 0.5
        return torch.tanh(slopes[..., None, :] * centred + offsets[..., None, :])

    def _fitted(self, problem: Problem, hidden: Tensor) -> Tensor:
        """Output weights ``(B, n_hidden, d)`` whose curve is nearest to the initial curve, in least squares."""
        away = problem.points() - self.start[:, None]
        share = _mirrored(away, self.turn) / _mirrored(self.line[:, None], self.turn)
        h = self._hidden(*hidden)
        h = h - torch.lerp(h[:1], h[-1:], self.t[:, None])
        return torch.linalg.pinv(h, rtol=1e-3) @ (share - self.t[:, None])

    def points(self, weights: Tensor, rows: Tensor | slice) -> Tensor:
        """Points ``(b, T, d)`` of the curves with indices ``rows``, for weights ``(b, m)``."""
        n = self.n_hidden
        slopes, offsets, out = weights[:, :n], weights[:, n : 2 * n], weights[:, 2 * n :]
        z = self.t[:, None] + self._hidden(slopes, offsets) @ out.reshape(-1, n, self.d)
        share = (z - z[:, :1]) / (z[:, -1:] - z[:, :1])
        turn = self.turn[rows]
        away = _mirrored(self.line[rows][:, None], turn) * share
        return self.start[rows][:, None] + _mirrored(away, turn)


def _mirrored(x: Tensor, normal: Tensor) -> Tensor:
    """``x (b, T, d)`` reflected in the planes with normals ``(b, d)``."""
    return x - 2 * (x * normal[:, None]).sum(-1, keepdim=True) * normal[:, None]


def _turn(line: Tensor) -> Tensor:
    """The normal ``(B, d)`` of the reflection that maps a line's direction to plus or minus the diagonal (1, ..., 1).

    It is the same for both directions of a line, and zero where the direction lies along the diagonal already.
    """
    d = line.shape[-1]
    direction = line / line.norm(dim=-1, keepdim=True)
    diagonal = torch.full_like(direction, 1 / math.sqrt(d))
    sign = torch.where((direction * diagonal).sum(-1, keepdim=True) < 0, -1.0, 1.0).to(direction)
    normal = sign * direction - diagonal
    length = normal.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-6, normal / torch.where(length > 1e-6, length, 1.0), 0.0)
