"""The exponential map of a metric and its inverse, the logarithmic map."""

import warnings

import torch
from torch import Tensor

from geolib import checks
from geolib.geodesics import geodesic
from geolib.paths.equation import DIFFERENCE
from geolib.paths.flow import MAX_EVALUATIONS, FlowStatus, follow
from geolib.paths.result import GeodesicError
from geolib.riemannian import Metric, RiemannianMetric, as_metric

_SHOTS = 15  # largest number of corrections of the initial velocity
_SHOOTING = 3  # times the evaluations that one geodesic may take, for all shots at one end
_LONGEST = 0.3  # longest correction, relative to the velocity
_FLOW = 0.05  # tolerance of the integrator, relative to that of the end point
_ROUNDING = 50  # times eps and the end point: how near to it a geodesic can be shot
_SPEED_LOST = 0.01  # the share of its speed by which a geodesic that was followed may differ at its end


@torch.no_grad()
def expmap(
    metric: Metric, start: Tensor, velocity: Tensor, *, rtol: float = 1e-6, return_status: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    r"""The end point of the geodesic with a given start and initial velocity: :math:`\exp_z(v) = \gamma(1)`, where
    :math:`\gamma(0) = z`, :math:`\gamma'(0) = v` and :math:`D_t \gamma' = 0`.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        start: ``(..., d)``; broadcast against ``velocity``.
        velocity: ``(..., d)``, in latent units; :math:`|v|_M` is the length of the geodesic.
        rtol: tolerance of position and velocity in each step of the integrator, relative to their largest coordinate;
            no less than ten roundings of the dtype.
        return_status: return the outcome of every geodesic too, and raise for none.

    Returns:
        the end points ``(..., d)``, with the dtype and device of ``start``. They are NaN, with a warning that says how
        many and why, for geodesics that leave the region in which the metric is finite before t = 1, that are not
        followed to t = 1 in 3,000 evaluations of the equation and steps of a millionth or more, as where a generator
        saturates and the geodesic would leave its image, or that do not keep their speed, as across kinks (ReLU). With
        ``return_status`` also their status ``(...)``, codes of ``geolib.paths.flow.FlowStatus``, 0 for those that were
        followed, without a warning.

    Raises:
        TypeError, ValueError: for arguments of the wrong type or shape; where the metric is not finite at a start;
            where none of the geodesics is followed.

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
    flow = follow(metric, z.unsqueeze(1), v.unsqueeze(1), rtol)
    end, status = flow.position[:, 0], flow.status
    rows = (status == FlowStatus.REACHED).nonzero()[:, 0]
    if len(rows):
        before, after = _speed(metric, z[rows], v[rows]), _speed(metric, end[rows], flow.velocity[rows, 0])
        kept = (after - before).abs() <= _SPEED_LOST * before  # false for NaN
        status[rows] = torch.where(kept, status[rows], FlowStatus.SPEED_LOST)
    followed = status == FlowStatus.REACHED
    end = torch.where(followed.unsqueeze(-1), end, torch.nan)
    if not (return_status or bool(followed.all())):
        report = _report("velocity", status)
        edge = status == FlowStatus.NOT_FINITE
        if bool(edge.any()):
            report += f" (metric on the geodesic at t = {float(flow.time[edge.cpu()][0]):.3g}: not finite)"
        _tell(ValueError, report, "end points", alone=not bool(followed.any()))
    end = end.reshape(*batch, z.shape[-1])
    return (end, status.reshape(batch)) if return_status else end


def _speed(metric: RiemannianMetric, z: Tensor, v: Tensor) -> Tensor:
    """The norm ``(n,)`` of velocities ``v (n, d)`` at ``z (n, d)``, finite or not."""
    return torch.einsum("ni,nij,nj->n", v, metric.unchecked(z), v).clamp_min(0).sqrt()


def _report(name: str, status: Tensor) -> str:
    """A sentence for each way in which geodesics were lost."""
    codes = status[status != FlowStatus.REACHED].unique().tolist()
    told = (f"{int((status == c).sum())} of {status.numel()} geodesics {FlowStatus(c).sentence}" for c in codes)
    return f"{name}: " + ". ".join(told)


def _tell(error: type[Exception], report: str, what: str, *, alone: bool) -> None:
    """Raise where nothing was found; warn where others were."""
    if alone:
        raise error(report)
    warnings.warn(f"{report}. Their {what} are NaN", stacklevel=4)  # at the call of the public function


@torch.no_grad()
def logmap(
    metric: Metric, start: Tensor, end: Tensor, *, rtol: float = 1e-6, return_status: bool = False, **options: object
) -> Tensor | tuple[Tensor, Tensor]:
    r"""The initial velocity of the shortest geodesic found from ``start`` to ``end``, the inverse of ``expmap``.

    The curve is that of ``geodesic``, a local minimum. Newton's method then corrects its initial velocity until
    :math:`\exp_z(v)` is the end point (shooting). :math:`|v|_M` is the length of the geodesic.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        start: ``(..., d)``; broadcast against ``end``.
        end: ``(..., d)``.
        rtol: tolerance of the end point, relative to the latent distance of start and end; no less than fifty
            roundings of the end point, or of what fifty roundings of the velocity do to it.
        return_status: return the outcome of every pair too, and raise for none.
        **options: passed to ``geodesic``.

    Returns:
        ``(..., d)``, in latent units; zero where start and end are the same point. Velocities are NaN, with a warning
        that says how many and why, for pairs whose curve did not converge or whose end is missed by 15 corrections or
        9,000 evaluations of the geodesic equation. With ``return_status`` also the status ``(...)``, codes of
        ``geolib.paths.flow.FlowStatus``, 0 for the velocities that lead to the end, without a warning.

    Raises:
        TypeError, ValueError: as ``geodesic``.
        GeodesicError: where no pair has a velocity; the message says why.

    Note:
        Between conjugate points, such as the poles of a sphere, there are many such velocities. If shooting succeeds,
        one of them is returned.

    Source:
        do Carmo 1992, Sec. 3.2.
    """
    metric = as_metric(metric)
    checks.positive("rtol", rtol)
    g = geodesic(metric, start, end, **options)
    d = g.points.shape[-1]
    z, goal = g.points[..., 0, :].reshape(-1, d), g.points[..., -1, :].reshape(-1, d)
    v, length, converged = g.curve.slopes[..., 0, :].reshape(-1, d), g.length.reshape(-1), g.converged.reshape(-1)
    # the curve does not have constant speed
    speed = _speed(metric, z, v)
    moving = (length > 0) & (speed > 0) & converged
    v = torch.where(moving, length / torch.where(moving, speed, 1.0), 0.0).unsqueeze(-1) * v
    status = torch.where(converged, FlowStatus.REACHED, FlowStatus.NO_CURVE)
    if bool(moving.any()):
        v[moving], hit = _shot(metric, z[moving], goal[moving], v[moving], rtol)
        status[moving] = torch.where(hit, FlowStatus.REACHED, FlowStatus.MISSED)
    found = status == FlowStatus.REACHED
    v = torch.where(found.unsqueeze(-1), v, torch.nan)
    if not (return_status or bool(found.all())):
        report = _report("end", status)
        if not bool(converged.all()):
            report += f"\n{g.report()}"
        _tell(GeodesicError, report, "velocities", alone=not bool(found.any()))
    v = v.reshape(*g.points.shape[:-2], d)
    return (v, status.reshape(v.shape[:-1])) if return_status else v


def _shot(metric: RiemannianMetric, z: Tensor, goal: Tensor, v: Tensor, rtol: float) -> tuple[Tensor, Tensor]:
    """Initial velocities ``(n, d)`` that reach the goal, from approximate ones, by Newton's method, and whether they do
    ``(n,)``."""
    d = z.shape[-1]
    eps = torch.finfo(z.dtype).eps
    v = v.clone()
    # no nearer than to a few roundings of the end point
    enough = (rtol * (goal - z).norm(dim=-1)).maximum(_ROUNDING * eps * goal.norm(dim=-1))
    miss = torch.full_like(enough, torch.inf)
    step = torch.zeros_like(v)
    left = torch.full((len(z),), _SHOOTING * MAX_EVALUATIONS)
    active = torch.arange(len(z), device=z.device)
    for _ in range(_SHOTS):
        if not len(active):
            break
        w = v[active] + step[active]
        h = DIFFERENCE[z.dtype] * w.norm(dim=-1, keepdim=True)
        # one batch gives the end point and its derivatives: v, and v shifted to either side along each coordinate
        aside = h.unsqueeze(-1) * torch.eye(d, dtype=z.dtype, device=z.device)
        shots = torch.cat([w.unsqueeze(1), w.unsqueeze(1) + aside, w.unsqueeze(1) - aside], dim=1)
        most = left[active.cpu()].clamp_max(MAX_EVALUATIONS)
        flow = follow(metric, z[active].unsqueeze(1).expand_as(shots), shots, rtol * _FLOW, most)
        left[active.cpu()] -= flow.n_evaluations
        there = flow.status == FlowStatus.REACHED
        ends = torch.where(there[:, None, None], flow.position, 0.0)
        missing = goal[active] - ends[:, 0]
        nearer = there & (missing.norm(dim=-1) < miss[active])
        better = active[nearer]
        v[better], miss[better] = w[nearer], missing[nearer].norm(dim=-1)
        J = ((ends[:, 1 : d + 1] - ends[:, d + 1 :]) / (2 * h.unsqueeze(-1))).mT
        # nor than to what a few roundings of the velocity do to the end point
        reach = torch.linalg.matrix_norm(J, ord=2) * w.norm(dim=-1)
        enough[better] = enough[better].maximum(_ROUNDING * eps * reach[nearer])
        newton = (torch.linalg.pinv(J) @ missing.unsqueeze(-1)).squeeze(-1)
        # a long step could lead far away from the region of interest
        longest = _LONGEST * w.norm(dim=-1, keepdim=True)
        newton = newton * (longest / newton.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)).clamp(
            max=1
        )
        step[active] = torch.where(nearer.unsqueeze(-1), newton, step[active] / 4)
        going_on = (miss[active] > enough[active]) & miss[active].isfinite() & (left[active.cpu()] > 0).to(z.device)
        active = active[going_on]
    return v, miss <= enough
