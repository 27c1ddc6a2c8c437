"""``geodesic()``: checks, one solver of the registry, and a result that is measured and told truthfully."""

import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from geolib import checks
from geolib.certificate import geodesic_residual, is_geodesic
from geolib.curves import Metric, curves_at_once
from geolib.graph import LatentGraph
from geolib.measure import Measured, measure
from geolib.solvers import SOLVERS
from geolib.solvers.problem import Problem, Solution
from geolib.spline import CubicBSpline, common_knots
from geolib.status import Status

METHODS = tuple(SOLVERS)
STARTS = ("line", "graph", "best")

_CONVERGED = (Status.CONVERGED, Status.CONVERGED_FROM_LINE, Status.SAME_POINT)
_HIDDEN = 0.01  # relative difference between a curve's length and what its own points see of it
_BOW = 0.1  # of the distance from start to end
_MAX_REFINEMENT = 8  # times n_segments


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
    """``(...)``, ``geodesic_residual`` of the points, or where the tolerance asked for it of 2, 4 or 8 times as many"""
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
        return torch.isin(self.status, torch.tensor(_CONVERGED, device=self.status.device))

    def report(self) -> str:
        """One line for each status that occurs: how many curves, and what it means."""
        counts = Counter(self.status.reshape(-1).tolist())
        return "\n".join(f"{count} of {self.status.numel()}: {Status(code).sentence}" for code, count in counts.items())


def geodesic(
    metric: Metric,
    start: Tensor,
    end: Tensor,
    *,
    method: str = "newton",
    n_segments: int = 32,
    init: str | Tensor = "line",
    latents: Tensor | None = None,
    rtol: float = 1e-4,
    max_steps: int = 100,
    throw: bool = False,
    **options: object,
) -> Geodesic:
    r"""Shortest curves between pairs of latent points: minimisers of :math:`\int |\gamma'|_M^2 dt`.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``, differentiable by torch.
        start: ``(..., d)``; broadcast against ``end``. Their dtype and device are those of the whole computation.
        end: ``(..., d)``.
        method: one of ``METHODS``: ``"newton"`` for speed and accuracy, ``"spline"`` for the paper's own.
        n_segments: segments of the discretised curve, and of the result's ``points``. Where the tolerance asks for it,
            a method works with more, at most eight times as many.
        init: where curves begin: ``"line"``; ``"graph"``, the shortest path over ``LatentGraph(metric, latents)``
            where that is clearly shorter than the line; ``"best"``, both, of which the shorter result is kept; or
            first guesses ``(..., n + 1, d)`` that run from start to end at equal steps of t.
        latents: ``(n, d)``, the points that a graph is built on, such as the encoded data; needed for ``"graph"`` and
            ``"best"``.
        rtol: relative tolerance in length: a curve is done when it is a geodesic to this tolerance (``is_geodesic``)
            and a further refinement would gain less; lengths are measured at least as finely.
        max_steps: steps a curve at most.
        throw: raise where a curve did not converge, instead of reporting it in ``status``.
        **options: the method's own.

    Returns:
        a ``Geodesic``. A local minimum: among several geodesics between two points it need not be the shortest. A
        curve that did not converge is still the shortest found, never longer than the straight line; ``converged``
        and ``status`` tell. A feature of the metric that is narrower than a curve's latent length over
        ``2 n_segments`` can be missed by all measures. Memory stays flat in the number of pairs but for the result
        itself: they are worked on in blocks, whose size follows from the metric's ``chunk_size``.

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
    guess = _check_init(init, latents, start, end, batch)

    with torch.no_grad():
        graph = LatentGraph(metric, latents) if isinstance(init, str) and init != "line" else None
        task = _Task(metric, functools.partial(solve, **options), n_segments, rtol, max_steps)
        size = curves_at_once(metric, start[:1].unsqueeze(1).expand(1, n_segments + 1, -1))
        parts, order = [], []
        blocks = torch.arange(len(start), device=start.device).tensor_split(math.ceil(len(start) / size))
        for rows in blocks:
            if graph is None:
                jobs = [(rows, [None if guess is None else guess[rows]])]
            else:
                paths = graph.paths(start[rows], end[rows])
                led = paths.points[paths.shorter]
                jobs = [
                    (rows[~paths.shorter], [None]),
                    (rows[paths.shorter], [led] if init == "graph" else [None, led]),
                ]
            for chosen, guesses in jobs:
                if len(chosen):
                    parts.append(task.solve(start[chosen], end[chosen], guesses))
                    order.append(chosen)
            if init == "graph" and len(jobs[0][0]):
                status = parts[-1 if len(jobs[1][0]) == 0 else -2].status
                status[(status == Status.CONVERGED) & ~paths.connected[~paths.shorter]] = Status.CONVERGED_FROM_LINE
        result = _joined(parts, torch.cat(order), batch)
    if throw and not bool(result.converged.all()):
        raise GeodesicError(result.report())
    return result


@dataclass(frozen=True)
class _Task:
    """What is the same for every block of pairs."""

    metric: Metric
    method: Callable[[Problem], Solution]
    n_segments: int
    rtol: float
    max_steps: int

    def solve(self, start: Tensor, end: Tensor, guesses: list[Tensor | None]) -> Geodesic:
        """The shortest curves found from these guesses (None: the straight line) for pairs ``(B, d)``."""
        line = self._measure(CubicBSpline.line(start, end))
        same = (start == end).all(-1)
        line_length = torch.where(same, 0.0, line.length)
        status = torch.where(line_length == 0, Status.SINGULAR, Status.CONVERGED)
        status[same] = Status.SAME_POINT
        n_steps = torch.zeros_like(status)
        kept = line
        residual = torch.where(line_length > 0, torch.inf, torch.zeros_like(line_length))
        todo = (line_length > 0).nonzero()[:, 0]
        for k, guess in enumerate(guesses if len(todo) else ()):
            steps = torch.full_like(todo, self.max_steps)
            part = None if guess is None else guess[todo]
            run = self._run(start[todo], end[todo], part, self.n_segments, steps)
            if guess is not None:
                # a guess is a curve too
                first = self._measure(CubicBSpline.fit(part))
                shorter = first.length < kept.length[todo]
                kept = kept.replaced(todo, first, shorter)
                residual[todo[shorter]] = torch.inf
            # what ended above its start is no result; it may have met a start that is a geodesic, to within rounding
            longer = run.found.length > kept.length[todo] * (1 + self.rtol)
            run.status[longer & (run.status == Status.CONVERGED)] = Status.START_KEPT
            shorter = run.found.length < kept.length[todo]
            told = shorter if k else torch.ones_like(shorter)
            status[todo[told]], n_steps[todo[told]] = run.status[told], run.n_steps[told]
            residual[todo[shorter]] = run.residual[shorter]
            kept = kept.replaced(todo, run.found, shorter)

        points = kept.points
        points[same] = start[same].unsqueeze(1)
        unknown = torch.isinf(residual)
        if bool(unknown.any()):
            residual[unknown] = geodesic_residual(self.metric, points[unknown])
        certified = is_geodesic(residual, self.rtol)
        status[(status == Status.CONVERGED) & ~certified] = Status.NOT_GEODESIC
        status[(status == Status.START_KEPT) & certified] = Status.CONVERGED
        status[(status == Status.CONVERGED) & ~(kept.resolved & line.resolved)] = Status.UNRESOLVED
        length = torch.where(line_length > 0, kept.length, 0.0)
        return Geodesic(points, kept.curve, length, line_length, residual, status, n_steps)

    def _measure(self, curve: CubicBSpline) -> Measured:
        return measure(self.metric, curve, self.n_segments, self.rtol)

    def _run(self, start: Tensor, end: Tensor, guess: Tensor | None, n_segments: int, max_steps: Tensor) -> "_Run":
        """The method's curves from one guess.

        A curve can hurry past a narrow wall between two of its points: where its length, measured more finely, is not
        what the method saw, it starts anew with twice the segments, and from the side. Where it is not a geodesic to
        the tolerance yet, it goes on from where it is with twice the segments.
        """
        solution = self.method(Problem(self.metric, start, end, guess, n_segments, self.rtol, max_steps))
        found = self._measure(solution.curve)
        residual = geodesic_residual(self.metric, found.finer_points(n_segments // self.n_segments))
        hidden = (solution.seen - found.length).abs() > _HIDDEN * found.length
        status = torch.where(hidden & (solution.status == Status.CONVERGED), Status.UNRESOLVED, solution.status)
        run = _Run(found, residual, status, solution.n_steps)
        may_go_on = (solution.status != Status.MAX_STEPS) & (solution.n_steps < max_steps)
        if 2 * n_segments <= _MAX_REFINEMENT * self.n_segments:
            loose = ~is_geodesic(residual, self.rtol) & ~hidden
            anew = _bowed_line(start, end, 2 * n_segments) if guess is None else guess
            for chosen, begin in ((hidden & may_go_on, anew), (loose & may_go_on, found.points)):
                rows = chosen.nonzero()[:, 0]
                if len(rows):
                    left = max_steps[rows] - solution.n_steps[rows]
                    run = run.followed(rows, self._run(start[rows], end[rows], begin[rows], 2 * n_segments, left))
        return run


@dataclass(frozen=True)
class _Run:
    """Curves that a method found, ``(B,)`` each."""

    found: Measured
    residual: Tensor
    status: Tensor
    n_steps: Tensor

    def followed(self, rows: Tensor, other: "_Run") -> "_Run":
        """These curves, of which those of ``rows (b,)`` were solved once more; the shorter of the two is kept."""
        shorter = other.found.length < self.found.length[rows]
        residual, status, n_steps = self.residual.clone(), self.status.clone(), self.n_steps.clone()
        residual[rows[shorter]] = other.residual[shorter]
        status[rows] = other.status
        n_steps[rows] += other.n_steps
        return _Run(self.found.replaced(rows, other.found, shorter), residual, status, n_steps)


def _bowed_line(start: Tensor, end: Tensor, n_segments: int) -> Tensor:
    """Points ``(B, n_segments + 1, d)`` to one side of the straight line.

    Where the line meets a symmetric wall at right angles it is a geodesic, if not a shortest one, and would be kept.
    """
    t = torch.linspace(0, 1, n_segments + 1, dtype=start.dtype, device=start.device).unsqueeze(-1)
    d = start.shape[-1]
    direction = nn.functional.normalize(end - start, dim=-1)
    # the same side from either end
    aside = torch.linspace(1, 2, d, dtype=start.dtype, device=start.device).expand_as(start)
    aside = nn.functional.normalize(aside - (aside * direction).sum(-1, keepdim=True) * direction, dim=-1)
    height = _BOW * (end - start).norm(dim=-1, keepdim=True) if d > 1 else torch.zeros_like(start)
    return torch.lerp(start.unsqueeze(1), end.unsqueeze(1), t) + 4 * t * (1 - t) * (height * aside).unsqueeze(1)


def _joined(parts: list[Geodesic], rows: Tensor, batch: torch.Size) -> Geodesic:
    """All parts, whose curves are those of ``rows (B,)``, as one batch of shape ``batch``."""
    order = rows.argsort()
    knots = common_knots([part.curve.knots for part in parts])
    P = torch.cat([part.curve.with_knots(knots).control_points for part in parts])[order]
    values = {
        f.name: torch.cat([getattr(part, f.name) for part in parts])[order]
        for f in fields(Geodesic)
        if f.name != "curve"
    }
    values = {name: value.reshape(batch + value.shape[1:]) for name, value in values.items()}
    return Geodesic(curve=CubicBSpline(P.reshape(batch + P.shape[1:]), knots), **values)


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


def _check_init(
    init: str | Tensor, latents: Tensor | None, start: Tensor, end: Tensor, batch: torch.Size
) -> Tensor | None:
    """First guesses ``(B, n + 1, d)`` with exact ends, or None where a word says how to begin."""
    if isinstance(init, str):
        checks.one_of("init", init, STARTS)
        if init != "line" and latents is None:
            raise ValueError(f"latents: got None, expected the points (n, d) that init={init!r} builds its graph on")
        if init != "line":
            checks.latent_points("latents", latents)
            checks.same_kind("latents", latents, "start", start)
            if latents.ndim != 2 or latents.shape[-1] != start.shape[-1]:
                raise ValueError(f"latents: got shape {tuple(latents.shape)}, expected (n, {start.shape[-1]})")
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
