"""Random walks in latent space with steps that follow a metric."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from geolib import checks
from geolib.riemannian import Metric, as_metric

# How many random numbers are drawn at once, so that memory does not grow with the number of steps. Every block is drawn
# in full, so that a longer walk with the same seed begins with the shorter one.
_BLOCK = 2**16


class WalkStatus(IntEnum):
    """The outcome of one walk; ``WalkStatus(code).sentence`` explains it and gives a remedy."""

    COMPLETED = 0
    LEFT = 1

    @property
    def sentence(self) -> str:
        """An explanation, with a remedy where one is needed."""
        return _SENTENCES[self]


_SENTENCES = {
    WalkStatus.COMPLETED: "the walker took all its steps",
    WalkStatus.LEFT: "the walker's next point, or the metric at it, was not finite, so it stopped before it; lower "
    "max_stride or step_size, or start elsewhere",
}


@dataclass(frozen=True)
class Walk:
    """Random walks with the outcome of each. ``(...)`` is the batch shape of the starts."""

    points: Tensor
    """``(..., n_steps + 1, d)``, the first one exactly the start; a walker that has stopped stays at its last point"""
    status: Tensor
    """``(...)``, codes of ``WalkStatus``"""
    n_steps: Tensor
    """``(...)``, number of steps taken"""
    n_clipped: Tensor
    """``(...)``, number of these steps that were shortened to ``max_stride``"""


@torch.no_grad()
def random_walk(
    metric: Metric | None,
    start: Tensor,
    *,
    n_steps: int,
    step_size: float,
    max_stride: float = 0.5,
    seed: int = 0,
) -> Walk:
    r"""Random walks whose steps have the same variance in every direction of the output space.

    With the metric :math:`M = U L U^T` at the current point and :math:`\epsilon \sim N(0, I)`,

    .. math:: z \leftarrow z + s v, \qquad v = U L^{-1/2} U^T \epsilon,

    so that a step's covariance is :math:`s^2 M^{-1}` in latent space and :math:`s^2 I` in the image's tangent space.
    Without a metric :math:`v = \epsilon`.

    Args:
        metric: a ``PullbackMetric``, any callable ``z (..., d) -> M (..., d, d)``, or None for the Euclidean walk.
        start: the first points, ``(..., d)``; the walk has their dtype and device.
        n_steps: number of steps.
        step_size: s, the standard deviation of a step in any one direction, in units of the output; without a metric
            in latent units.
        max_stride: upper bound of a step's standard deviation along every eigenvector of the metric, in latent units:
            eigenvalues below ``(step_size / max_stride) ** 2`` are raised to that value. The default is half a standard
            deviation of a standard normal prior. Without a metric nothing is clipped.
        seed: seed of the random numbers, which are drawn on the CPU in float64, the same for every dtype and device.

    Returns:
        a ``Walk``: points ``(..., n_steps + 1, d)`` and the outcome of each walk. No gradients are recorded.

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape or range; where the metric is not finite at a
            start.

    Note:
        The paper's v is :math:`U L^{-1/2} \epsilon`. The additional :math:`U^T` only rotates :math:`\epsilon`, so the
        walk has the same distribution. It makes v continuous in z and independent of the signs and the order of the
        eigenvectors, which are arbitrary.
        A large metric shortens the steps but does not push the walker back: as s tends to 0, the walk tends to the
        diffusion :math:`dz = M^{-1/2} dW`, which lacks the drift of the metric's Brownian motion. The bound on steps
        matters far from the data, where the generator saturates: M vanishes there, and steps would be arbitrarily long.
        Where the metric's condition number exceeds its precision (1e6 in float32), the smallest eigenvalue is
        dominated by rounding errors, and so is the step along its eigenvector, up to the bound.
        Steps are taken one after another, so one walker takes about as long as a hundred: a second or two for 10,000
        steps with a cheap metric, ten times as long with that of a large decoder. With two latent dimensions and a
        large decoder, ``tabulate()`` the metric first.

    Source:
        Danielou et al. 2024, Sec. 3.4.
    """
    checks.latent_points("start", start)
    if start.numel() == 0:
        raise ValueError(f"start: got no points (shape {tuple(start.shape)}), expected at least one")
    n_steps = checks.integer("n_steps", n_steps, at_least=1)
    step_size = checks.positive("step_size", step_size)
    max_stride = checks.positive("max_stride", max_stride)
    seed = checks.seed(seed)

    z = start.reshape(-1, start.shape[-1])
    metric = None if metric is None else as_metric(metric)
    M = None if metric is None else metric(z)
    points = z.new_empty(len(z), n_steps + 1, z.shape[-1])
    points[:, 0] = z
    moving = torch.ones(len(z), dtype=torch.bool, device=z.device)
    n_taken, n_clipped = torch.zeros(2, len(z), dtype=torch.int64, device=z.device)
    for step, noise in enumerate(_draws(z, n_steps, seed), start=1):
        move, clipped = (step_size * noise, None) if M is None else _move(M, noise, step_size, max_stride)
        there = z + move
        moving = moving & _finite(there)
        # a walker that has stopped stays in the batch at its last point, so that the other rows do not change
        there = torch.where(moving.unsqueeze(-1), there, z)
        if M is not None:
            M_there = metric.unchecked(there)
            moving = moving & _finite(M_there)
            M = torch.where(moving[:, None, None], M_there, M)
            n_clipped += clipped & moving
        z = torch.where(moving.unsqueeze(-1), there, z)
        n_taken += moving
        points[:, step] = z
    status = torch.where(moving, WalkStatus.COMPLETED.value, WalkStatus.LEFT.value)
    batch = start.shape[:-1]
    return Walk(points.reshape(*batch, *points.shape[1:]), *(x.reshape(batch) for x in (status, n_taken, n_clipped)))


def _finite(x: Tensor) -> Tensor:
    """Which rows of ``x`` are finite ``(n,)``. ``x - x`` is zero or NaN; ``isfinite`` takes twice the operations."""
    return (x - x).logical_not().flatten(1).all(-1)


def _draws(z: Tensor, n_steps: int, seed: int) -> Iterator[Tensor]:
    """Standard normal numbers ``(n, d)`` for each step, with the dtype and device of ``z``."""
    generator = torch.Generator().manual_seed(seed)
    block = max(1, _BLOCK // z.numel())
    for first in range(0, n_steps, block):
        noise = torch.randn(block, *z.shape, generator=generator, dtype=torch.float64).to(z)
        yield from noise[: n_steps - first]


def _move(M: Tensor, noise: Tensor, step_size: float, max_stride: float) -> tuple[Tensor, Tensor]:
    """The steps ``s M^{-1/2} noise (n, d)`` with bounded strides, and which of them were shortened ``(n,)``."""
    if M.shape[-1] == 2:
        return _move_in_the_plane(M, noise, step_size, max_stride)
    eigenvalues, U = torch.linalg.eigh(M)
    stride, clipped = _strides(eigenvalues, step_size, max_stride)
    return torch.einsum("nij,nj,nkj,nk->ni", U, stride, U, noise), clipped.any(-1)


def _strides(eigenvalues: Tensor, step_size: float, max_stride: float) -> tuple[Tensor, Tensor]:
    """Step lengths along the eigenvectors, bounded by ``max_stride``, and which of them were shortened."""
    # a zero eigenvalue may be rounded to a negative number
    stride = step_size * eigenvalues.clamp_min(torch.finfo(eigenvalues.dtype).tiny).rsqrt()
    shorter = stride.clamp_max(max_stride)
    return shorter, stride > shorter


def _move_in_the_plane(M: Tensor, noise: Tensor, step_size: float, max_stride: float) -> tuple[Tensor, Tensor]:
    """``_move`` for d = 2 in closed form; an eigensolver takes ten times as long at a thousand points.

    With eigenvalues :math:`m \\pm r` and N = (M - m I) / r, a function f of the metric is the matrix
    (f(m + r) + f(m - r)) / 2 I + (f(m + r) - f(m - r)) / 2 N.
    """
    # With a hundred walkers the number of operations decides the time, and those with a Python number take twice as
    # long. Therefore p, b and r are computed doubled, and the noise is halved instead.
    tiny = torch.finfo(M.dtype).tiny
    a, _, b, c = M.flatten(1).unbind(-1)  # the lower triangle, like eigh
    p, b2 = a - c, b + b
    r = torch.hypot(p, b2)
    large = ((a + c + r) / 2).clamp_min(tiny)
    # det / large, because m - r suffers from cancellation where the eigenvalues are far apart
    small = a * (c / large) - b * (b / large)
    stride, clipped = _strides(torch.stack([large, small]), step_size, max_stride)
    short, long = stride.unbind()
    # for r = 0 both strides agree, so any finite N will do
    slope = (short - long) / r.clamp_min(tiny)
    mean, p, b = short + long, slope * p, slope * b2
    x, y = (noise / 2).unbind(-1)
    return torch.stack([(mean + p) * x + b * y, b * x + (mean - p) * y], dim=-1), clipped[1]
