"""``geodesic()``: checks, one solver of the registry, and a result that is measured and told truthfully."""

import inspect
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import checks
from geolib.curves import Metric, geodesic_residual
from geolib.measure import measure
from geolib.solvers import SOLVERS
from geolib.solvers.problem import Problem
from geolib.spline import CubicBSpline
from geolib.status import Status

METHODS = tuple(SOLVERS)


class GeodesicError(RuntimeError):
    """Some curves of a batch did not converge, and the caller asked for all or nothing."""


@dataclass(frozen=True)
class Geodesic:
    """Curves between pairs of points, measured. Shapes ``(...)`` are the broadcast batch shape of start and end."""

    points: Tensor
    """``(..., N + 1, d)``, equally spaced in length; first and last exactly start and end"""
    curve: CubicBSpline
    """the smooth curves: ``g.curve(t)`` is ``(..., T, d)`` for ``t (T,)`` in [0, 1]"""
    length: Tensor
    """``(...)``, Riemannian; never more than ``line_length``"""
    line_length: Tensor
    """``(...)``, of the straight line"""
    residual: Tensor
    """``(...)``, see ``geodesic_residual``: about 0 for a geodesic"""
    status: Tensor
    """``(...)``, codes of ``Status``"""
    n_steps: Tensor
    """``(...)``, steps that the solver took"""

    @property
    def improvement(self) -> Tensor:
        """``(line_length - length) / line_length``, ``(...)``; 0 where the line has no length."""
        has_length = self.line_length > 0
        return torch.where(has_length, 1 - self.length / torch.where(has_length, self.line_length, 1.0), 0.0)

    @property
    def converged(self) -> Tensor:
        """``(...)``, whether the solver met its tolerance."""
        return (self.status == Status.CONVERGED) | (self.status == Status.SAME_POINT)

    def report(self) -> str:
        """One line for each status that occurs: how many curves, and what it means."""
        counts = Counter(self.status.reshape(-1).tolist())
        return "\n".join(f"{count} of {self.status.numel()}: {Status(code).sentence}" for code, count in counts.items())


def geodesic(
    metric: Metric,
    start: Tensor,
    end: Tensor,
    *,
    method: str = "spline",
    n_segments: int = 32,
    init: str | Tensor = "line",
    rtol: float = 1e-4,
    max_steps: int = 100,
    throw: bool = False,
    **options: object,
) -> Geodesic:
    r"""Shortest curves between pairs of latent points: minimisers of :math:`\int |\gamma'|_M^2 dt`.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        start: ``(..., d)``; broadcast against ``end``. Their dtype and device are those of the whole computation.
        end: ``(..., d)``.
        method: one of ``METHODS``.
        n_segments: segments of the discretised curve, and of the result's ``points``.
        init: ``"line"``, or first guesses ``(..., n + 1, d)`` that run from start to end at equal steps of t.
        rtol: relative change of length below which a curve is done; lengths are measured more finely than that.
        max_steps: steps a curve at most.
        throw: raise where a curve did not converge, instead of reporting it in ``status``.
        **options: the method's own.

    Returns:
        a ``Geodesic``. A local minimum: among several geodesics between two points it need not be the shortest. A
        curve that did not converge is still the shortest found, never longer than the straight line; ``converged``
        and ``status`` tell. A feature of the metric that is narrower than a curve's latent length over
        ``4 n_segments`` can be missed by all measures.

    Raises:
        TypeError, ValueError: for arguments of another kind, shape, dtype or device; for no pairs; for an option that
            the method does not have; where the metric is not finite on a curve.
        GeodesicError: with ``throw``, where a curve did not converge.

    Source:
        Michelis & Becker 2021, Sec. 2.1.
    """
    solve = SOLVERS[checks.one_of("method", method, METHODS)]
    _check_options(method, solve, options)
    checks.integer("n_segments", n_segments, at_least=4)
    checks.integer("max_steps", max_steps, at_least=1)
    checks.positive("rtol", rtol)
    start, end, batch = _check_pairs(start, end)
    guess = _check_init(init, start, end, batch)

    with torch.no_grad():
        line = CubicBSpline.line(start, end)
        line_length, line_t, line_resolved = measure(metric, line, n_segments, rtol)
        same = (start == end).all(-1)
        line_length[same] = 0
        status = torch.where(line_length == 0, Status.SINGULAR, Status.CONVERGED)
        status[same] = Status.SAME_POINT
        n_steps = torch.zeros_like(status)

        curve, length, t = line, line_length.clone(), line_t.clone()
        todo = (line_length > 0).nonzero()[:, 0]
        if len(todo):
            part = None if guess is None else guess[todo]
            found = solve(Problem(metric, start[todo], end[todo], part, n_segments, rtol, max_steps), **options)
            status[todo], n_steps[todo] = found.status, found.n_steps
            found_length, found_t, resolved = measure(metric, found.curve, n_segments, rtol)

            # The line is a curve too: what is longer is no result. Where the solver converged to within rounding of
            # the line, the line is the geodesic; where it ended above it, nothing is certified.
            above = (found_length > line_length[todo] * (1 + rtol)) & (found.status == Status.CONVERGED)
            status[todo[above]] = Status.LINE_KEPT
            vague = ~(resolved & line_resolved[todo]) & (found.status == Status.CONVERGED)
            status[todo[vague]] = Status.UNRESOLVED
            shorter = found_length < line_length[todo]
            better = todo[shorter]
            curve = CubicBSpline.line(start, end, found.curve.knots)
            curve.control_points[better] = found.curve.control_points[shorter]
            length[better], t[better] = found_length[shorter], found_t[shorter]
        points = curve.each(t)
        points[same] = start[same].unsqueeze(1)
        residual = geodesic_residual(metric, points)

    result = Geodesic(
        points=points.reshape(*batch, *points.shape[1:]),
        curve=CubicBSpline(curve.control_points.reshape(*batch, *curve.control_points.shape[1:]), curve.knots),
        length=length.reshape(batch),
        line_length=line_length.reshape(batch),
        residual=residual.reshape(batch),
        status=status.reshape(batch),
        n_steps=n_steps.reshape(batch),
    )
    if throw and not bool(result.converged.all()):
        raise GeodesicError(result.report())
    return result


def _check_pairs(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Start and end broadcast and flattened to ``(B, d)``, and the batch shape."""
    checks.latent_points("start", start)
    checks.latent_points("end", end)
    checks.same_kind("end", end, "start", start)
    try:
        shape = torch.broadcast_shapes(start.shape, end.shape)
    except RuntimeError:
        shape = torch.Size()
    if len(shape) == 0 or start.shape[-1] != end.shape[-1]:
        raise ValueError(f"start, end: got shapes {tuple(start.shape)} and {tuple(end.shape)}, expected (..., d) each")
    if 0 in shape:
        raise ValueError(f"start, end: got zero pairs (shape {tuple(shape)}), expected at least one")
    start, end = (x.detach().expand(shape).reshape(-1, shape[-1]).contiguous() for x in (start, end))
    return start, end, shape[:-1]


def _check_options(method: str, solve: object, options: dict[str, object]) -> None:
    known = [p.name for p in inspect.signature(solve).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise TypeError(f"{name}: not an option of method {method!r}, which has {', '.join(known) or 'none'}")


def _check_init(init: str | Tensor, start: Tensor, end: Tensor, batch: torch.Size) -> Tensor | None:
    """First guesses ``(B, n + 1, d)`` with exact ends, or None for the straight line."""
    if isinstance(init, str):
        checks.one_of("init", init, ("line",))
        return None
    checks.latent_points("init", init, min_points=2)
    checks.same_kind("init", init, "start", start)
    n_points, d = init.shape[-2], start.shape[-1]
    try:
        guess = init.detach().expand(*batch, n_points, d).reshape(-1, n_points, d)
    except RuntimeError as error:
        expected = (*batch, "n + 1", d)
        raise ValueError(f"init: got shape {tuple(init.shape)}, expected {expected}") from error
    ends = torch.stack([start, end], dim=1)
    if not torch.allclose(guess[:, [0, -1]], ends, rtol=1e-4, atol=1e-4 * float(ends.abs().max())):
        raise ValueError("init: its first and last points are not start and end")
    return torch.cat([ends[:, :1], guess[:, 1:-1], ends[:, 1:]], dim=1)
