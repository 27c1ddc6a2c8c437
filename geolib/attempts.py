"""One method from one initial curve or several: its curves are measured, certified and, where that helps, refined."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geolib.checks import NOT_FINITE
from geolib.curves import straight
from geolib.paths.certificate import certify, is_geodesic
from geolib.paths.interpolant import Curve
from geolib.paths.kinks.cells import Cells
from geolib.paths.kinks.lengths import measured, polyline
from geolib.paths.measure import Measured, measure
from geolib.paths.problem import Problem, Solution, resampled
from geolib.paths.result import Geodesic, Status
from geolib.paths.starts.bows import bowed_ways
from geolib.paths.starts.graph import LatentGraph
from geolib.paths.verdict import Finding, may_refine, reported
from geolib.riemannian import RiemannianMetric

_HIDDEN = 0.01  # relative difference of a curve's length from that on the method's own points
_BOW = 0.1  # height of a bowed line, relative to the distance from start to end
_MAX_REFINEMENT = 8  # largest number of segments of a method, relative to n_segments
_ESCAPES = 2  # saddles that are left one after the other
_ASIDE = (0.03, 0.1, 0.2, 0.4)  # how far curves are tried beside a saddle, relative to its length
_SHORTER = 0.1  # times rtol, by which one of them must be shorter
_TIED = 1e-6  # relative difference of lengths that rounding may make up
_COARSE, _ROUGH = 32, 1e-3  # segments and tolerance of curves of which one is followed to its end
_SCREENING = 2 / 3  # the most of a pair's steps that these take together


@dataclass(frozen=True)
class Task:
    """A method on a metric with its tolerances, which are the same for every block of pairs."""

    metric: RiemannianMetric
    method: Callable[[Problem], Solution]
    n_segments: int
    rtol: float
    max_steps: int
    graph: Callable[[], LatentGraph]
    detour: Callable[[Problem], Solution] | None = None
    """another method, for curves that this one leaves unconverged"""
    seeks: bool = False
    """whether other ways are sought beside the curves found, as nothing was known of any when they began"""

    def solve(
        self,
        start: Tensor,
        end: Tensor,
        guesses: list[Tensor | None],
        rivals: tuple[Tensor, Tensor] | None = None,
    ) -> Geodesic:
        """The shortest curves found from these guesses (None: the straight line) for pairs ``(B, d)``.

        Of a guess and its ``rivals``, owners ``(m,)`` and curves ``(m, n + 1, d)``, only the one is followed to its end
        that leads to the shortest curve on few segments. Where other ways are sought and seem to lead to a shorter
        curve, that is followed too. What has not converged by then makes a detour: another method from the last guess,
        and this one from its curve. The steps are shared out evenly among what is still to come.

        Raises:
            NotFiniteError: where the metric is not finite on a line or, with several pairs, on the way of one of them.
        """
        line = self._measure(Curve.line(start, end))
        best = _Best.of_lines(line, (start == end).all(-1), self.max_steps)
        try:
            self._search(best, start, end, guesses, rivals)
        except NOT_FINITE:
            if len(start) > 1:
                raise
            # what was certified before stays
            lost = best.residual.isinf() | (best.status != Status.CONVERGED)
            best.residual = best.residual.masked_fill(best.residual.isinf(), torch.nan)
            best.status = best.status.masked_fill(lost, Status.NOT_FINITE)
        return self._judged(best, start, end)

    def _search(
        self,
        best: "_Best",
        start: Tensor,
        end: Tensor,
        guesses: list[Tensor | None],
        rivals: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Let the ``best`` curves become what ``solve`` finds."""
        todo = (best.line_length > 0).nonzero()[:, 0]
        if rivals is not None:
            guesses = [self._most_promising(start, end, guesses[0], *rivals, best.steps_left)]
        phases = len(guesses) + (2 if self.detour is not None else 0)
        for k, guess in enumerate(guesses if len(todo) else ()):
            part = None if guess is None else guess[todo]
            if part is not None:  # a guess is a curve too
                best.start_from(todo, self._measure(Curve.through(part)))
            steps = best.steps_left[todo].add(phases - k - 1) // (phases - k)
            run = self._run(start[todo], end[todo], part, self.n_segments, steps)
            best.consider(todo, run, self.rtol, first=k == 0)
        if self.seeks and len(todo):
            self._seek_beside(best, todo, start, end)
        if self.detour is not None and len(todo):
            rows = todo[(best.status[todo] != Status.CONVERGED) & (best.steps_left[todo] > 1)]
            if len(rows):
                part = None if guesses[-1] is None else guesses[-1][rows]
                steps = best.steps_left[rows] // 2
                ends = start[rows], end[rows]
                aside = self.detour(Problem(self.metric, *ends, part, self.n_segments, self.rtol, steps, self.graph))
                best.steps_left[rows] -= aside.n_steps
                init = aside.curve.even_points(2 * self.n_segments)
                best.start_from(rows, self._measure(aside.curve))
                run = self._run(*ends, init, self.n_segments, best.steps_left[rows])
                best.consider(rows, run, self.rtol, first=False)
        unknown = torch.isinf(best.residual).nonzero()[:, 0]
        if len(unknown):
            best.residual[unknown], best.index[unknown], _ = self._certify(best.found[unknown], 1)

    def _judged(self, best: "_Best", start: Tensor, end: Tensor) -> Geodesic:
        """The result of the ``best`` curves, whose residuals are known."""
        finding = torch.where(best.found.resolved, Finding.BEST_CERTIFIED, Finding.BEST_UNMEASURED)
        finding = finding.masked_fill(best.index > 0, Finding.BEST_SADDLE)
        finding = torch.where(is_geodesic(best.residual, self.rtol), finding, Finding.BEST_UNCERTIFIED)
        length = torch.where(best.line_length > 0, best.found.length, 0.0)
        return Geodesic(
            best.found.points,
            best.found.curve,
            length,
            best.line_length,
            # a measured length may be a rounding error shorter than the chord
            torch.minimum(self.metric.chord(start, end), length),
            best.residual,
            best.index,
            reported(best.status, finding),
            self.max_steps - best.steps_left,
        )

    def _seek_beside(self, best: "_Best", todo: Tensor, start: Tensor, end: Tensor) -> None:
        """Follow other ways than the curves of the pairs ``todo (b,)`` that promise to be shorter."""
        rows, guess, rivals = bowed_ways(self.metric, start[todo], end[todo], best.found.length[todo])
        rows = todo[rows]
        if not len(rows):
            return
        left = best.steps_left[rows]
        coarse = self._most_promising(start[rows], end[rows], guess, *rivals, left)
        best.steps_left[rows] = left
        found = self._measure(Curve.through(coarse))
        shorter = ((found.length < best.found.length[rows] * (1 - self.rtol)) & (left > 0)).nonzero()[:, 0]
        rows = rows[shorter]
        if len(rows):
            best.start_from(rows, found[shorter])
            run = self._run(start[rows], end[rows], coarse[shorter], self.n_segments, best.steps_left[rows])
            best.consider(rows, run, self.rtol, first=False)

    def _most_promising(
        self, start: Tensor, end: Tensor, guess: Tensor, owner: Tensor, others: Tensor, steps_left: Tensor
    ) -> Tensor:
        """Of the curves ``(B, _COARSE + 1, d)`` that a pair's guess ``(B, n + 1, d)`` and its rivals lead to on few
        segments, the shortest. Takes the steps of all from ``steps_left (B,)``."""
        whose, begin = torch.cat([torch.arange(len(guess)).to(owner), owner]), torch.cat([guess, others])
        steps = (_SCREENING * steps_left / whose.bincount(minlength=len(guess)).clamp_min(1)).long()[whose]
        enough = (steps > 0).nonzero()[:, 0]
        whose, begin, steps = whose[enough], begin[enough], steps[enough]
        if not len(whose):
            return resampled(guess, _COARSE)
        rtol = max(self.rtol, _ROUGH)
        run = self.method(Problem(self.metric, start[whose], end[whose], begin, _COARSE, rtol, steps, self.graph))
        steps_left.index_add_(0, whose, -run.n_steps)
        length = self._measure(run.curve).length
        shortest = torch.full_like(start[:, 0], torch.inf).scatter_reduce(0, whose, length, "amin")
        # of several that are as short, the first: rounding, which depends on the batch, must not choose between them
        number = torch.arange(len(whose), device=whose.device)
        number = number.masked_fill(length > shortest[whose] * (1 + _TIED), len(whose))
        first = torch.full_like(whose[:1], len(whose)).expand(len(guess)).scatter_reduce(0, whose, number, "amin")
        chosen = first[first < len(whose)]
        return resampled(guess, _COARSE).index_copy(0, whose[chosen], run.curve[chosen].even_points(_COARSE))

    def _measure(self, curve: Curve) -> Measured:
        cells = Cells.of(self.metric, curve.points)
        if cells is None:
            return measure(self.metric, curve, self.n_segments, self.rtol)
        # sums over chords see little of the kinks between their points
        return measured(cells, curve, self.n_segments)

    def _certify(self, found: Measured, times: int) -> tuple[Tensor, Tensor, Tensor]:
        """Residual and index ``(B,)``, and points ``(2, B, n_segments + 1, d)`` on either side of a saddle.

        A curve is looked at on at least ``times`` as many points, and on half as many as its length asked for. The
        index is 0 where no curve beside it was found to be shorter.
        """
        points = found.points
        if Cells.of(self.metric, points) is not None:
            proof = certify(self.metric, polyline(found.curve))
            return proof.residual, proof.index, points.expand(2, *points.shape)
        residual, index, descent = found.length.clone(), torch.zeros_like(found.n_fine), torch.zeros_like(points)
        finer = (found.n_fine // (2 * self.n_segments)).clamp(times, max(times, _MAX_REFINEMENT))
        for several in finer.unique().tolist():
            rows = (finer == several).nonzero()[:, 0]
            proof = certify(self.metric, points[rows] if several == 1 else found[rows].finer_points(several))
            residual[rows], index[rows], descent[rows] = proof.residual, proof.index, proof.descent[:, ::several]
        sides = points.expand(2, *points.shape)
        bent = (index > 0).nonzero()[:, 0]
        if len(bent):
            sides = sides.clone()
            sides[:, bent], shorter = self._sides(found[bent], descent[bent])
            index[bent] = index[bent].masked_fill(~shorter, 0)
        return residual, index, sides

    def _run(
        self,
        start: Tensor,
        end: Tensor,
        guess: Tensor | None,
        n_segments: int,
        max_steps: Tensor,
        escapes: int = _ESCAPES,
    ) -> "_Run":
        """The method's curves from one guess.

        A curve can jump over a narrow wall between two of its points. Where its length on finer points is not the
        length that the method saw, the method begins again with twice the segments, and from the side. Where the curve
        is not a geodesic to the tolerance yet, the method goes on from it with twice the segments. Where it is one but
        no minimum, the method goes on from either side of it.
        """
        solution = self.method(Problem(self.metric, start, end, guess, n_segments, self.rtol, max_steps, self.graph))
        found = self._measure(solution.curve)
        residual, index, sides = self._certify(found, n_segments // self.n_segments)
        hidden = (solution.solver_length - found.length).abs() > _HIDDEN * found.length
        finding = torch.where(index > 0, Finding.SADDLE, Finding.CERTIFIED)
        finding = finding.masked_fill(~is_geodesic(residual, self.rtol), Finding.UNCERTIFIED)
        finding = finding.masked_fill(hidden, Finding.HIDDEN)
        run = _Run(found, residual, index, reported(solution.status, finding), solution.n_steps)
        left = max_steps - solution.n_steps
        again = may_refine(solution.status, finding) & (left > 0)
        saddle = finding == Finding.SADDLE
        if not bool(again.any()):
            return run
        if 2 * n_segments <= _MAX_REFINEMENT * self.n_segments:
            from_the_side = _bowed_line(start, end, 2 * n_segments) if guess is None else guess
            points = found.finer_points(2 * n_segments // self.n_segments)
            for chosen, begin in ((again & hidden, from_the_side), (again & ~hidden & ~saddle, points)):
                rows = chosen.nonzero()[:, 0]
                if len(rows):
                    other = self._run(start[rows], end[rows], begin[rows], 2 * n_segments, left[rows], escapes)
                    run = run.followed(rows, other)
        rows = (again & saddle).nonzero()[:, 0]
        if escapes:
            for side in sides:
                rows = rows[left[rows] > 0]
                if len(rows):
                    other = self._run(start[rows], end[rows], side[rows], n_segments, left[rows], escapes - 1)
                    run = run.followed(rows, other, always=False)
                    left[rows] -= other.n_steps
        return run

    def _sides(self, saddle: Measured, descent: Tensor) -> tuple[Tensor, Tensor]:
        """The shortest curves along the field ``descent (b, n_segments + 1, d)`` on one side of each curve and on the
        other, ``(2, b, n_segments + 1, d)``, and whether either is shorter than the curve itself ``(b,)``."""
        points = saddle.points
        # the field is of length 1 in the metric, and moves no point farther than the curve is long in the latent space
        reach = points.diff(dim=1).norm(dim=-1).sum(-1) / descent.norm(dim=-1).amax(-1)
        field = torch.minimum(saddle.length, reach)[:, None, None] * descent
        steps = points.new_tensor([(a, -a) for a in _ASIDE])[..., None, None, None] * field
        lengths, best = self.metric.length(points + steps).nan_to_num(torch.inf).min(0)
        share = points.new_tensor(_ASIDE)[best][..., None, None] * points.new_tensor([1, -1])[:, None, None, None]
        return points + share * field, (lengths < self.metric.length(points) * (1 - _SHORTER * self.rtol)).any(0)


@dataclass(frozen=True)
class _Run:
    """Curves that a method found, ``(B,)`` each."""

    found: Measured
    residual: Tensor
    index: Tensor
    status: Tensor
    n_steps: Tensor

    def followed(self, rows: Tensor, other: "_Run", *, always: bool = True) -> "_Run":
        """These curves after those of ``rows (b,)`` were solved once more: the shorter curve of each two.

        The other's status counts ``always``, or only where its curve is the shorter one.
        """
        shorter = other.found.length < self.found.length[rows]
        residual, index, status, n_steps = (x.clone() for x in (self.residual, self.index, self.status, self.n_steps))
        _put(residual, rows, other.residual, shorter)
        _put(index, rows, other.index, shorter)
        _put(status, rows, other.status, torch.ones_like(shorter) if always else shorter)
        n_steps[rows] += other.n_steps
        return _Run(self.found.replaced(rows, other.found, shorter), residual, index, status, n_steps)


@dataclass
class _Best:
    """The best curves seen so far, ``(B,)`` each."""

    found: Measured
    line_length: Tensor
    residual: Tensor
    """infinite where it is not known"""
    index: Tensor
    status: Tensor
    steps_left: Tensor

    @classmethod
    def of_lines(cls, line: Measured, same: Tensor, max_steps: int) -> "_Best":
        """The straight lines, of which those that are the ``same`` point at both ends have no length."""
        length = line.length.masked_fill(same, 0.0)
        status = torch.where(length == 0, Status.SINGULAR, Status.CONVERGED).masked_fill(same, Status.SAME_POINT)
        residual = torch.where(length > 0, torch.inf, torch.zeros_like(length))
        return cls(line, length, residual, torch.zeros_like(status), status, torch.full_like(status, max_steps))

    def start_from(self, rows: Tensor, guess: Measured) -> None:
        """Take the guesses of ``rows (b,)`` that are shorter."""
        shorter = guess.length < self.found.length[rows]
        self.found = self.found.replaced(rows, guess, shorter)
        self.residual[rows] = self.residual[rows].masked_fill(shorter, torch.inf)

    def consider(self, rows: Tensor, run: "_Run", rtol: float, *, first: bool) -> None:
        """Take the curves of ``rows (b,)`` that are shorter, or as short to the tolerance and converged."""
        length = self.found.length[rows]
        # a curve that is longer by less than rtol may have met a start that is a geodesic itself
        longer = run.found.length > length * (1 + rtol)
        status = torch.where(longer, reported(run.status, torch.full_like(rows, Finding.LONGER)), run.status)
        better = (run.status == Status.CONVERGED) & (self.status[rows] != Status.CONVERGED) & ~longer & (not first)
        shorter = (run.found.length < length) | better
        _put(self.status, rows, status, torch.ones_like(shorter) if first else shorter)
        _put(self.residual, rows, run.residual, shorter)
        _put(self.index, rows, run.index, shorter)
        self.steps_left[rows] -= run.n_steps
        self.found = self.found.replaced(rows, run.found, shorter)


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
