"""Geodesics from their starts and velocities, by a Runge-Kutta method in which each takes its own steps."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from scipy.integrate import DOP853
from torch import Tensor

from geolib.paths.equation import acceleration
from geolib.riemannian import RiemannianMetric

MAX_EVALUATIONS = 3_000
_SHORTEST = 1e-6  # step, as a share of the whole way: a million of them are more than the evaluations allow
_SAFETY, _LEAST_FACTOR, _MOST_FACTOR, _ORDER = 0.9, 0.2, 10.0, 8
_A, _B, _E3, _E5 = (torch.from_numpy(x.copy()) for x in (DOP853.A, DOP853.B, DOP853.E3, DOP853.E5))


class FlowStatus(IntEnum):
    """The outcome of one geodesic; ``FlowStatus(code).sentence`` explains it and gives a remedy."""

    REACHED = 0
    NOT_FINITE = 1
    MAX_EVALUATIONS = 2
    SPEED_LOST = 3
    NO_CURVE = 4
    MISSED = 5

    @property
    def sentence(self) -> str:
        """What happened, and the remedy."""
        return _SENTENCES[self]


_SENTENCES = {
    FlowStatus.REACHED: "reached t = 1",
    FlowStatus.NOT_FINITE: "left the region in which the metric is finite before t = 1; shorten the velocity",
    FlowStatus.MAX_EVALUATIONS: f"did not reach t = 1 within {MAX_EVALUATIONS:,} evaluations of the geodesic "
    "equation and in steps of a millionth or more, as where the metric changes too fast, or the generator saturates "
    "and a geodesic would leave its image; shorten the velocity, or raise rtol",
    FlowStatus.SPEED_LOST: "did not keep their speed, as where the generator saturates and a geodesic would leave its "
    "image, or across kinks (ReLU), which the geodesic equation does not see; shorten the velocity",
    FlowStatus.NO_CURVE: "have no curve that converged; see the status of geodesic() for the same points",
    FlowStatus.MISSED: "missed the end when they were shot; give geodesic a smaller rtol or more segments",
}


@dataclass(frozen=True)
class Flow:
    """Geodesics at the times that they reached."""

    position: Tensor
    """(n, k, d)"""
    velocity: Tensor
    """(n, k, d)"""
    time: Tensor
    """(n,), in [0, 1], float64"""
    status: Tensor
    """(n,), codes of ``FlowStatus``"""
    n_evaluations: Tensor
    """(n,), of the geodesic equation"""


def follow(metric: RiemannianMetric, z: Tensor, v: Tensor, rtol: float, most: Tensor | None = None) -> Flow:
    """Geodesics through ``z (n, k, d)`` with velocities ``v (n, k, d)`` from t = 0 to 1, integrated in float64.

    Each of the n takes steps of its own, so that none depends on another. The k that belong to one take the same steps:
    differences between them are smooth.

    Args:
        metric: the metric.
        z: points.
        v: velocities.
        rtol: tolerance of position and velocity in each step, relative to their largest coordinate; no less than ten
            roundings.
        most: evaluations of the equation that each may take, ``(n,)``; by default ``MAX_EVALUATIONS``.

    Source:
        Dormand & Prince's method of order 8 with step control as in Hairer, Norsett & Wanner 1993, Sec. II.4 and II.5.
    """
    n, _, d = z.shape
    state = torch.stack([z, v], dim=2).double().cpu()  # (n, k, 2, d)
    most = torch.full((n,), MAX_EVALUATIONS) if most is None else most.cpu()
    tolerance = max(rtol / (2 * d) ** 0.5, 1e3 * torch.finfo(state.dtype).eps, 10 * torch.finfo(z.dtype).eps)
    scale = tolerance * state.abs().flatten(1).amax(-1).clamp_min(torch.finfo(state.dtype).tiny)

    def slope(rows: Tensor, y: Tensor) -> Tensor:
        """The derivative of states ``y (b, k, 2, d)``, NaN where they or the metric are not finite."""
        known = torch.isfinite(y).flatten(1).all(-1)
        position, speed = torch.where(known[:, None, None, None], y, state[rows]).to(z).unbind(2)
        a = acceleration(metric, position.flatten(0, 1), speed.flatten(0, 1)).cpu().double().reshape(y[:, :, 0].shape)
        a = a.masked_fill(~known[:, None, None], torch.nan)
        return torch.stack([y[:, :, 1], a], dim=2)

    def size(x: Tensor, rows: Tensor, reach: Tensor) -> Tensor:
        """The root mean square of ``x (b, k, 2, d)`` relative to the tolerance, of the worst of the k: ``(b,)``."""
        return (x / (scale[rows, None, None, None] + tolerance * reach)).square().flatten(2).mean(-1).sqrt().amax(-1)

    time, now = torch.zeros(n, dtype=torch.float64), state.clone()
    active = torch.arange(n)
    rate = slope(active, now)
    step = _first_steps(lambda y: slope(active, y), lambda x: size(x, active, now.abs()), now, rate)
    n_evaluations, status = torch.full((n,), 2), torch.full((n,), int(FlowStatus.REACHED))
    rejected = torch.zeros(n, dtype=torch.bool)
    while len(active):
        y, h = now[active], torch.minimum(step[active], 1 - time[active])
        wide = h[:, None, None, None]
        K = y.new_empty(len(_B) + 1, *y.shape)
        K[0] = rate[active]
        for s in range(1, len(_B)):
            K[s] = slope(active, y + wide * torch.tensordot(_A[s, :s], K[:s], dims=1))
        there = y + wide * torch.tensordot(_B, K[:-1], dims=1)
        K[-1] = slope(active, there)
        n_evaluations[active] += len(_B)
        reach = torch.maximum(y.abs(), there.abs())
        fifth, third = (size(torch.tensordot(E, K, dims=1), active, reach) for E in (_E5, _E3))
        both = (fifth.square() + 0.01 * third.square()).sqrt()
        error = torch.where(both == 0, 0.0, h * fifth.square() / both)
        good = error < 1  # false for NaN
        factor = _SAFETY * error ** (-1 / _ORDER)
        most_factor = torch.where(rejected[active], 1.0, _MOST_FACTOR)
        step[active] = h * torch.where(
            good, torch.minimum(factor, most_factor), factor.nan_to_num(0.0).clamp_min(_LEAST_FACTOR)
        )
        rejected[active] = ~good
        moved = active[good]
        last = time[active] + h >= 1 - torch.finfo(time.dtype).eps
        time[moved], now[moved], rate[moved] = (time[active] + h)[good], there[good], K[-1][good]
        spent = n_evaluations[active] + len(_B) > most[active]
        stuck = (step[active] < _SHORTEST) & (step[active] < h)
        done = good & last
        given_up = ~done & (spent | stuck)
        status[active[given_up]] = FlowStatus.MAX_EVALUATIONS
        status[active[given_up & stuck & ~torch.isfinite(error)]] = FlowStatus.NOT_FINITE
        active = active[~(done | given_up)]
    position, velocity = now.to(z).unbind(2)
    return Flow(position, velocity, time, status.to(z.device), n_evaluations)


def _first_steps(
    slope: Callable[[Tensor], Tensor], size: Callable[[Tensor], Tensor], state: Tensor, rate: Tensor
) -> Tensor:
    """First steps ``(n,)`` from states and their derivatives ``(n, k, 2, d)``."""
    values, first = size(state), size(rate)
    small = (values < 1e-5) | (first < 1e-5)
    trial = torch.where(small, 1e-6, 0.01 * values / torch.where(small, 1.0, first)).clamp_max(1.0)
    second = size(slope(state + trial[:, None, None, None] * rate) - rate) / trial
    largest = torch.where(second > first, second, first)  # the first where the trial led astray
    step = torch.where(largest <= 1e-15, (1e-3 * trial).clamp_min(1e-6), (0.01 / largest) ** (1 / _ORDER))
    return torch.minimum(100 * trial, step).clamp_max(1.0)
