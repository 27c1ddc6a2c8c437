"""The curve solver and the rule of length in the published code of Michelis & Becker 2021, written anew.

It is here to say what their code would print, and is no solver of this project: it may find a longer curve than there
is, and its length is not the curve's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import PullbackMetric
from geolib.jacobian import push_forward

N_POINTS = 16
"""at which length and energy are added up"""
EPOCHS = 20
VALIDATE_EVERY = 5
"""epochs, the last of which only measures"""
RATE = 1.0
RATE_DECAY = 0.9
"""of the step, per epoch"""
RESTART_RATE = 0.3
"""of the step, whenever a validation finds no better curve"""
ENOUGH = 1 / 200
"""of the line's length: what a validation must gain, or the next epochs begin anew at the best curve"""
JITTER = 0.1
"""standard deviation of the places at which the energy is trained, over the distance of neighbours"""
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_TOGETHER = 8  # curves; more of them keep a convolutional decoder's graph out of the cache

SquaredSpeed = Callable[[Tensor, Tensor], Tensor]
"""Points ``(N, d)`` and velocities ``(N, d)`` to squared Riemannian speeds ``(N,)``."""


def squared_speed(metric: PullbackMetric) -> SquaredSpeed:
    """Squared speeds in a metric without features, by derivatives along the velocities alone."""

    def speed(z: Tensor, velocity: Tensor) -> Tensor:
        maps = [part for part in (metric.mean, metric.std) if part is not None]
        return sum(push_forward(part, z, velocity[None])[1][0].square().sum(-1) for part in maps)

    return speed


def rule_of_length(speeds: Tensor) -> Tensor:
    """Their length ``(...)`` of curves with these speeds ``(..., 16)`` at equal steps of the parameter.

    The step is a fifteenth, and both ends count in full, so a curve of constant speed seems longer by a fifteenth.
    """
    return speeds.sum(-1) / (N_POINTS - 1)


def rule_at_constant_speed(length: Tensor) -> Tensor:
    """Their length of curves whose true ``length`` is known and which have constant speed, as geodesics have."""
    return length * N_POINTS / (N_POINTS - 1)


def line_by_their_rule(speed: SquaredSpeed, start: Tensor, end: Tensor) -> Tensor:
    """Their length ``(n,)`` of straight lines."""
    return _validated(speed, _line(start, end))


@dataclass(frozen=True)
class Printed:
    """What their code prints for some pairs."""

    line: Tensor
    """``(n,)``, the straight lines' length by their rule"""
    best: Tensor
    """``(n,)``, the shortest found, by their rule"""
    control_points: Tensor
    """``(n, 4, d)`` of the curves that were found"""

    @property
    def improvement(self) -> Tensor:
        """``(n,)``, as a fraction."""
        return 1 - self.best / self.line


def solve(speed: SquaredSpeed, start: Tensor, end: Tensor, *, seed: int = 0) -> Printed:
    """Their search for a shorter curve between each pair: a cubic with two free control points, by Adam.

    Args:
        speed: squared speeds, e.g. from ``squared_speed``.
        start: ``(n, d)``.
        end: ``(n, d)``.
        seed: of the places at which the energy is trained.
    """
    generator = torch.Generator().manual_seed(seed)
    places = _places(start).expand(len(start), -1)
    shape = (EPOCHS, *places.shape)
    jitter = JITTER / (N_POINTS - 1) * torch.randn(shape, generator=generator, dtype=torch.float64)
    jittered = (places + jitter.to(start)).clamp(0, 1)
    parts = [
        _solve(speed, a, b, t)
        for a, b, t in zip(start.split(_TOGETHER), end.split(_TOGETHER), jittered.split(_TOGETHER, dim=1), strict=True)
    ]
    return Printed(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _solve(speed: SquaredSpeed, start: Tensor, end: Tensor, jittered: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    control = _line(start, end)
    line = _validated(speed, control)
    best, best_control = line.clone(), control.clone()
    first, second = (torch.zeros_like(control) for _ in range(2))
    rate = torch.full_like(line, RATE)
    restarts = torch.zeros_like(line)
    steps = torch.zeros_like(line)
    for epoch in range(EPOCHS):
        if (epoch + 1) % VALIDATE_EVERY:
            gradient = _gradient(speed, control, jittered[epoch])
            steps = steps + 1
            first = _BETAS[0] * first + (1 - _BETAS[0]) * gradient
            second = _BETAS[1] * second + (1 - _BETAS[1]) * gradient.square()
            mean, root = (
                moment / (1 - beta ** steps[:, None, None])
                for moment, beta in ((first, _BETAS[0]), (second, _BETAS[1]))
            )
            control = control - rate[:, None, None] * mean / (root.sqrt() + _EPSILON)
            rate = rate * RATE_DECAY
            continue
        found = _validated(speed, control)
        failed = ~(best - found >= ENOUGH * line)  # not a number is a failure too
        better = found < best
        best = torch.where(better, found, best)
        best_control = torch.where(better[:, None, None], control, best_control)
        restarts = restarts + failed
        again = failed[:, None, None]
        control = torch.where(again, best_control, control)
        first, second = (torch.where(again, 0.0, moment) for moment in (first, second))
        rate = torch.where(failed, RATE * RESTART_RATE**restarts, rate)
        steps = torch.where(failed, 0.0, steps)
    return line, best, best_control


def _places(like: Tensor) -> Tensor:
    return torch.linspace(0, 1, N_POINTS, dtype=like.dtype, device=like.device)


def _line(start: Tensor, end: Tensor) -> Tensor:
    """Control points ``(n, 4, d)`` of straight lines of constant latent speed."""
    t = torch.linspace(0, 1, 4, dtype=start.dtype, device=start.device)[:, None]
    return start[:, None] + t * (end - start)[:, None]


def _on_curve(control: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Points and velocities ``(n T, d)`` of cubics with one polynomial piece at ``t (n, T)``."""
    s = 1 - t
    weights = torch.stack([s**3, 3 * s**2 * t, 3 * s * t**2, t**3], dim=-1)
    slopes = 3 * torch.stack([s**2, 2 * s * t, t**2], dim=-1)
    return (weights @ control).flatten(0, 1), (slopes @ control.diff(dim=1)).flatten(0, 1)


@torch.no_grad()
def _validated(speed: SquaredSpeed, control: Tensor) -> Tensor:
    t = _places(control).expand(len(control), -1)
    return rule_of_length(speed(*_on_curve(control, t)).clamp_min(0).sqrt().unflatten(0, t.shape))


def _gradient(speed: SquaredSpeed, control: Tensor, t: Tensor) -> Tensor:
    """Of the energy at places ``t (n, 16)``, with respect to the two free control points; 0 at the ends."""
    with torch.enable_grad():
        free = control.detach().requires_grad_()
        energy = speed(*_on_curve(free, t)).sum() / (N_POINTS - 1) ** 2
        (gradient,) = torch.autograd.grad(energy, free)
    gradient[:, [0, -1]] = 0.0
    return gradient


def exact_minimiser(log_speed_ratio: float) -> float:
    """Their rule's improvement, as a fraction, on a line of one dimension where the true improvement is 0.

    The speed grows over the line by the factor ``exp(log_speed_ratio)``. The curve is the exact minimiser of the energy
    at the 16 points over cubics with two free control points, found by Newton's method in float64.
    """

    def speed(z: Tensor, velocity: Tensor) -> Tensor:
        return (torch.exp(log_speed_ratio * z) * velocity)[..., 0].square()

    def energy(free: Tensor) -> Tensor:
        control = torch.cat([free.new_zeros(1), free, free.new_ones(1)])[None, :, None]
        return speed(*_on_curve(control, _places(free)[None])).sum()

    free = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    for _ in range(100):
        gradient, hessian = torch.func.grad(energy)(free), torch.func.hessian(energy)(free)
        shift = max(0.0, 1e-9 - float(torch.linalg.eigvalsh(hessian)[0]))
        step = torch.linalg.solve(hessian + 2 * shift * torch.eye(2, dtype=free.dtype), -gradient)
        while float(energy(free + step)) > float(energy(free)) and float(step.norm()) > 1e-12:
            step = step / 2
        free = free + step
        if float(step.norm()) < 1e-12:
            break
    control = torch.cat([free.new_zeros(1), free, free.new_ones(1)])[None, :, None]
    start, end = control[:, 0], control[:, -1]
    return 1 - float(_validated(speed, control) / line_by_their_rule(speed, start, end))
