"""One method from one initial curve or several: its curves are measured, certified and, where that helps, refined."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geolib.curves import straight
from geolib.paths.certificate import certify, is_geodesic
from geolib.paths.interpolant import Curve
from geolib.paths.measure import Measured, measure
from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Geodesic, Status
from geolib.paths.starts import LatentGraph
from geolib.paths.verdict import Finding, may_refine, reported
from geolib.riemannian import RiemannianMetric

_HIDDEN = 0.01  # relative difference of a curve's length from that on the method's own points
_BOW = 0.1  # height of a bowed line, relative to the distance from start to end
_MAX_REFINEMENT = 8  # largest number of segments of a method, relative to n_segments


@dataclass(frozen=True)
class Task:
    """A method on a metric with its tolerances, which are the same for every block of pairs."""

    metric: RiemannianMetric
    method: Callable[[Problem], Solution]
    n_segments: int
    rtol: float
    max_steps: int
    graph: Callable[[], LatentGraph]

    def solve(self, start: Tensor, end: Tensor, guesses: list[Tensor | None]) -> Geodesic:
        """The shortest curves found from these guesses (None: the straight line) for pairs ``(B, d)``."""
        straight_line = self._measure(Curve.line(start, end))
        same = (start == end).all(-1)
        line_length = straight_line.length.masked_fill(same, 0.0)
        status = torch.where(line_length == 0, Status.SINGULAR, Status.CONVERGED).masked_fill(same, Status.SAME_POINT)
        n_steps = torch.zeros_like(status)
        best = straight_line
        residual = torch.where(line_length > 0, torch.inf, torch.zeros_like(line_length))
        todo = (line_length > 0).nonzero()[:, 0]
        for k, guess in enumerate(guesses if len(todo) else ()):
            steps = torch.full_like(todo, self.max_steps)
            part = None if guess is None else guess[todo]
            run = self._run(start[todo], end[todo], part, self.n_segments, steps)
            if guess is not None:
                # a guess is a curve too
                first = self._measure(Curve.through(part))
                shorter = first.length < best.length[todo]
                best = best.replaced(todo, first, shorter)
                residual[todo] = residual[todo].masked_fill(shorter, torch.inf)
            # a curve that is longer by less than rtol may have met a start that is a geodesic itself
            longer = run.found.length > best.length[todo] * (1 + self.rtol)
            run_status = torch.where(longer, reported(run.status, torch.full_like(todo, Finding.LONGER)), run.status)
            shorter = run.found.length < best.length[todo]
            counts = shorter if k else torch.ones_like(shorter)
            _put(status, todo, run_status, counts)
            _put(n_steps, todo, run.n_steps, counts)
            _put(residual, todo, run.residual, shorter)
            best = best.replaced(todo, run.found, shorter)

        points = best.points
        unknown = torch.isinf(residual).nonzero()[:, 0]
        if len(unknown):
            residual[unknown] = certify(self.metric, points[unknown]).residual
        certified = torch.where(best.resolved & straight_line.resolved, Finding.BEST_CERTIFIED, Finding.BEST_UNMEASURED)
        status = reported(status, torch.where(is_geodesic(residual, self.rtol), certified, Finding.BEST_UNCERTIFIED))
        length = torch.where(line_length > 0, best.length, 0.0)
        # a measured length may be a rounding error shorter than the chord
        lower_bound = torch.minimum(self.metric.chord(start, end), length)
        return Geodesic(points, best.curve, length, line_length, lower_bound, residual, status, n_steps)

    def _measure(self, curve: Curve) -> Measured:
        return measure(self.metric, curve, self.n_segments, self.rtol)

    def _run(self, start: Tensor, end: Tensor, guess: Tensor | None, n_segments: int, max_steps: Tensor) -> "_Run":
        """The method's curves from one guess.

        A curve can jump over a narrow wall between two of its points. Where its length on finer points is not the
        length that the method saw, the method begins again with twice the segments, and from the side. Where the curve
        is not a geodesic to the tolerance yet, the method goes on from it with twice the segments.
        """
        solution = self.method(Problem(self.metric, start, end, guess, n_segments, self.rtol, max_steps, self.graph))
        found = self._measure(solution.curve)
        residual = certify(self.metric, found.finer_points(n_segments // self.n_segments)).residual
        hidden = (solution.solver_length - found.length).abs() > _HIDDEN * found.length
        finding = torch.where(is_geodesic(residual, self.rtol), Finding.CERTIFIED, Finding.UNCERTIFIED)
        finding = finding.masked_fill(hidden, Finding.HIDDEN)
        run = _Run(found, residual, reported(solution.status, finding), solution.n_steps)
        refine = may_refine(solution.status, finding) & (solution.n_steps < max_steps)
        if 2 * n_segments <= _MAX_REFINEMENT * self.n_segments and bool(refine.any()):
            from_the_side = _bowed_line(start, end, 2 * n_segments) if guess is None else guess
            for chosen, begin in ((refine & hidden, from_the_side), (refine & ~hidden, found.points)):
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
        """These curves after those of ``rows (b,)`` were solved once more: the shorter curve of each two."""
        shorter = other.found.length < self.found.length[rows]
        residual, status, n_steps = self.residual.clone(), self.status.clone(), self.n_steps.clone()
        _put(residual, rows, other.residual, shorter)
        status[rows] = other.status
        n_steps[rows] += other.n_steps
        return _Run(self.found.replaced(rows, other.found, shorter), residual, status, n_steps)


def _put(values: Tensor, rows: Tensor, new: Tensor, chosen: Tensor) -> None:
    """Overwrite those of ``rows (b,)`` that are ``chosen (b,)``, without asking the device how many there are."""
    values[rows] = torch.where(chosen, new, values[rows])


def _bowed_line(start: Tensor, end: Tensor, n_segments: int) -> Tensor:
    """Points ``(B, n_segments + 1, d)`` to one side of the straight line.

    A straight line that meets a symmetric wall at right angles is a geodesic, although not the shortest one, and a
    method that begins with it would stay there.
    """
    t = torch.linspace(0, 1, n_segments + 1, dtype=start.dtype, device=start.device).unsqueeze(-1)
    d = start.shape[-1]
    direction = nn.functional.normalize(end - start, dim=-1)
    # the same side from either end
    aside = torch.linspace(1, 2, d, dtype=start.dtype, device=start.device).expand_as(start)
    aside = nn.functional.normalize(aside - (aside * direction).sum(-1, keepdim=True) * direction, dim=-1)
    height = _BOW * (end - start).norm(dim=-1, keepdim=True) if d > 1 else torch.zeros_like(start)
    return straight(start, end, n_segments) + 4 * t * (1 - t) * (height * aside).unsqueeze(1)
