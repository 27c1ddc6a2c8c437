"""What a method finds from one start or several: measured, certified, and tried again where it fails."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geolib.curves import straight
from geolib.paths.certificate import geodesic_residual, is_geodesic
from geolib.paths.measure import Measured, measure
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Geodesic
from geolib.paths.starts import LatentGraph
from geolib.paths.status import Status
from geolib.riemannian import RiemannianMetric
from geolib.spline import CubicBSpline

_HIDDEN = 0.01  # relative difference between a curve's length and what its own points see of it
_BOW = 0.1  # of the distance from start to end
_MAX_REFINEMENT = 8  # times n_segments
# what a method says that ended before its steps did, and had something to show
_ENDED = (Status.CONVERGED, Status.BEST_OF_ITS_KIND)
# what it may say of curves that are geodesics all the same
_OVERRULED = (Status.BEST_OF_ITS_KIND, Status.DIVERGED, Status.MAX_NODES)
# after which more segments may help
_UNFINISHED = (Status.CONVERGED, Status.UNRESOLVED, Status.MAX_CONTROL_POINTS, Status.DIVERGED)


@dataclass(frozen=True)
class Task:
    """What is the same for every block of pairs: a method on a metric, and its tolerances."""

    metric: RiemannianMetric
    method: Callable[[Problem], Solution]
    n_segments: int
    rtol: float
    max_steps: int
    graph: Callable[[], LatentGraph]

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
            run.status[longer & _is_one_of(run.status, _ENDED)] = Status.START_KEPT
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
        solution = self.method(Problem(self.metric, start, end, guess, n_segments, self.rtol, max_steps, self.graph))
        found = self._measure(solution.curve)
        residual = geodesic_residual(self.metric, found.finer_points(n_segments // self.n_segments))
        hidden = (solution.seen - found.length).abs() > _HIDDEN * found.length
        certified = is_geodesic(residual, self.rtol) & ~hidden
        status = solution.status.clone()
        status[hidden & _is_one_of(status, _ENDED)] = Status.UNRESOLVED
        status[certified & _is_one_of(status, _OVERRULED)] = Status.CONVERGED
        run = _Run(found, residual, status, solution.n_steps)
        may_go_on = _is_one_of(status, _UNFINISHED) & (solution.n_steps < max_steps)
        if 2 * n_segments <= _MAX_REFINEMENT * self.n_segments:
            loose = ~certified & ~hidden
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


def _is_one_of(status: Tensor, several: tuple[Status, ...]) -> Tensor:
    return torch.isin(status, torch.tensor(several, device=status.device))


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
    return straight(start, end, n_segments) + 4 * t * (1 - t) * (height * aside).unsqueeze(1)
