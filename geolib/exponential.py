"""The exponential map of a metric and its inverse, the logarithmic map."""

import itertools

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from geolib import checks
from geolib.geodesics import geodesic
from geolib.paths.arrays import to_numpy
from geolib.paths.equation import DIFFERENCE, acceleration
from geolib.paths.result import GeodesicError
from geolib.riemannian import Metric, RiemannianMetric, as_metric

_SHOTS = 15  # largest number of corrections of the initial velocity
_LONGEST = 0.3  # longest correction, relative to the velocity
_FLOW = 0.05  # tolerance of the integrator, relative to that of the end point
_ROUNDING = 50  # times eps and the end point: how near to it a geodesic can be shot
_SPEED_LOST = 0.01  # the share of its speed by which a geodesic that was followed may differ at its end
_MAX_EVALUATIONS = 3_000


@torch.no_grad()
def expmap(metric: Metric, start: Tensor, velocity: Tensor, *, rtol: float = 1e-6) -> Tensor:
    r"""The end point of the geodesic with a given start and initial velocity: :math:`\exp_z(v) = \gamma(1)`, where
    :math:`\gamma(0) = z`, :math:`\gamma'(0) = v` and :math:`D_t \gamma' = 0`.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        start: ``(..., d)``; broadcast against ``velocity``.
        velocity: ``(..., d)``, in latent units; :math:`|v|_M` is the length of the geodesic.
        rtol: tolerance of position and velocity in each step of the integrator, relative to their largest coordinate;
            no less than ten roundings of the dtype.

    Returns:
        the end points ``(..., d)``, with the dtype and device of ``start``.

    Raises:
        TypeError, ValueError: for arguments of the wrong type or shape; where the geodesic leaves the region in which
            the metric is finite before t = 1, is not followed to t = 1 in 3,000 evaluations, or does not keep
            its speed, as where a generator saturates and the geodesic would leave its image, or across kinks (ReLU).

    Note:
        The errors of the steps add up, and grow where geodesics diverge. In float32 rounding errors of the metric limit
        the accuracy to about 1e-5.

    Source:
        do Carmo 1992, Sec. 3.2; integrated by the Runge-Kutta method of order 8 of Dormand & Prince.
    """
    metric = as_metric(metric)
    z, v, batch = checks.pairs(start, velocity, names=("start", "velocity"))
    checks.positive("rtol", rtol)
    metric(z)  # checks its shape and that it is finite
    metric.try_at(z)
    end, last = _flow(metric, z, v, rtol)
    before, after = (_speed(metric, a, b) for a, b in ((z, v), (end, last)))
    lost = (after - before).abs() > _SPEED_LOST * before
    if bool(lost.any()):
        raise ValueError(
            f"velocity: {int(lost.sum())} of {len(z)} geodesics did not keep their speed, as where the generator "
            f"saturates and a geodesic would leave its image, or across kinks (ReLU), which the geodesic equation does "
            f"not see; shorten the velocity"
        )
    return end.reshape(*batch, z.shape[-1])


def _speed(metric: RiemannianMetric, z: Tensor, v: Tensor) -> Tensor:
    """The norm ``(n,)`` of velocities ``v (n, d)`` at ``z (n, d)``."""
    return torch.einsum("ni,nij,nj->n", v, metric(z), v).clamp_min(0).sqrt()


def _flow(metric: RiemannianMetric, z: Tensor, v: Tensor, rtol: float) -> Tensor:
    """End points and velocities ``(2, n, d)`` of geodesics at t = 1, all integrated as one system in float64."""
    n, d = z.shape

    count = itertools.count(1)

    def equation(t: float, state: np.ndarray) -> np.ndarray:
        if next(count) > _MAX_EVALUATIONS:
            raise ValueError(
                f"velocity: the geodesic equation was not solved to t = 1 with {_MAX_EVALUATIONS} evaluations, as at "
                f"t = {t:.3g} the metric changes too fast; shorten the velocity"
            )
        position, speed = torch.from_numpy(state).to(z).reshape(2, n, d)
        a = acceleration(metric, position, speed)
        checks.finite(f"metric on the geodesic at t = {t:.3g}", a, at=position)
        return to_numpy(torch.cat([speed, a])).ravel()

    first = to_numpy(torch.stack([z, v]))
    size = max(np.abs(first).max(), np.finfo(float).tiny)
    # SciPy bounds the root mean square over all unknowns; this tolerance bounds each of them
    tolerance = rtol / first.size**0.5
    found = solve_ivp(
        equation,
        (0, 1),
        first.ravel(),
        method="DOP853",
        rtol=max(tolerance, 1e3 * np.finfo(float).eps, 10 * torch.finfo(z.dtype).eps),  # no less than rounding allows
        atol=max(tolerance, 10 * torch.finfo(z.dtype).eps) * size,
    )
    if not found.success:
        raise ValueError(f"velocity: the geodesic could not be followed beyond t = {found.t[-1]:.3g}: {found.message}")
    return torch.from_numpy(found.y[:, -1]).to(z).reshape(2, n, d)


@torch.no_grad()
def logmap(metric: Metric, start: Tensor, end: Tensor, *, rtol: float = 1e-6, **options: object) -> Tensor:
    r"""The initial velocity of the shortest geodesic found from ``start`` to ``end``, the inverse of ``expmap``.

    The curve is that of ``geodesic``, a local minimum. Newton's method then corrects its initial velocity until
    :math:`\exp_z(v)` is the end point (shooting). :math:`|v|_M` is the length of the geodesic.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        start: ``(..., d)``; broadcast against ``end``.
        end: ``(..., d)``.
        rtol: tolerance of the end point, relative to the latent distance of start and end; no less than fifty
            roundings of the end point.
        **options: passed to ``geodesic``.

    Returns:
        ``(..., d)``, in latent units; zero where start and end are the same point.

    Raises:
        TypeError, ValueError: as ``geodesic``.
        GeodesicError: where a curve did not converge or shooting missed the end; the message says how many.

    Note:
        Between conjugate points, such as the poles of a sphere, there are many such velocities. If shooting succeeds,
        one of them is returned.

    Source:
        do Carmo 1992, Sec. 3.2.
    """
    metric = as_metric(metric)
    checks.positive("rtol", rtol)
    g = geodesic(metric, start, end, throw=True, **options)
    d = g.points.shape[-1]
    z, goal = g.points[..., 0, :].reshape(-1, d), g.points[..., -1, :].reshape(-1, d)
    v = g.curve.slopes[..., 0, :].reshape(-1, d)
    # the curve does not have constant speed
    speed = _speed(metric, z, v)
    moving = (g.length.reshape(-1) > 0) & (speed > 0)
    v = torch.where(moving, g.length.reshape(-1) / torch.where(moving, speed, 1.0), 0.0).unsqueeze(-1) * v
    v[moving] = _shot(metric, z[moving], goal[moving], v[moving], rtol)
    return v.reshape(*g.points.shape[:-2], d)


def _shot(metric: RiemannianMetric, z: Tensor, goal: Tensor, v: Tensor, rtol: float) -> Tensor:
    """Initial velocities ``(n, d)`` that reach the goal, from approximate ones, by Newton's method."""
    d = z.shape[-1]
    v = v.clone()
    # no nearer than to a few roundings of the end point
    enough = (rtol * (goal - z).norm(dim=-1)).maximum(_ROUNDING * torch.finfo(z.dtype).eps * goal.norm(dim=-1))
    miss = torch.full_like(enough, torch.inf)
    step = torch.zeros_like(v)
    active = torch.arange(len(z), device=z.device)
    for _ in range(_SHOTS):
        if not len(active):
            return v
        w = v[active] + step[active]
        h = DIFFERENCE[z.dtype] * w.norm(dim=-1, keepdim=True)
        # one batch gives the end point and its derivatives: v, and v shifted to either side along each coordinate
        aside = h.unsqueeze(-1) * torch.eye(d, dtype=z.dtype, device=z.device)
        shots = torch.cat([w.unsqueeze(1), w.unsqueeze(1) + aside, w.unsqueeze(1) - aside], dim=1)
        ends = _flow(metric, z[active].repeat_interleave(2 * d + 1, 0), shots.flatten(0, 1), rtol * _FLOW)[0]
        ends = ends.reshape(-1, 2 * d + 1, d)
        missing = goal[active] - ends[:, 0]
        nearer = missing.norm(dim=-1) < miss[active]
        better = active[nearer]
        v[better], miss[better] = w[nearer], missing[nearer].norm(dim=-1)
        J = ((ends[:, 1 : d + 1] - ends[:, d + 1 :]) / (2 * h.unsqueeze(-1))).mT
        newton = (torch.linalg.pinv(J) @ missing.unsqueeze(-1)).squeeze(-1)
        # a long step could lead far away from the region of interest
        longest = _LONGEST * w.norm(dim=-1, keepdim=True)
        newton = newton * (longest / newton.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)).clamp(
            max=1
        )
        step[active] = torch.where(nearer.unsqueeze(-1), newton, step[active] / 4)
        active = active[miss[active] > enough[active]]
    if len(active):
        raise GeodesicError(
            f"{len(active)} of {len(z)}: shooting did not hit the end; give geodesic a smaller rtol or more segments"
        )
    return v
