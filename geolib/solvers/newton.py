"""Newton's method on discrete curves, from coarse to fine, with second derivatives by a secant approximation."""

from dataclasses import replace

import torch
from torch import Tensor

from geolib import checks
from geolib.paths import tridiagonal
from geolib.paths.energy import path_energy
from geolib.paths.energy.base import PathEnergy
from geolib.paths.energy.expansion import Expansion
from geolib.paths.interpolant import Curve
from geolib.paths.kinks.cells import Cells
from geolib.paths.kinks.descent import descend
from geolib.paths.kinks.lengths import polygon_curve
from geolib.paths.problem import Problem, Solution, resampled
from geolib.paths.result import Status
from geolib.riemannian import as_metric

# How far kinks are rounded, one after the other, relative to the heights of what they bend.
_WIDTHS = (0.1, 0.02)
_ROUNDED_RTOL = 1e-4  # there
_COARSEST = 8  # segments; fewer may see no way to bend
_FINER = 8  # the finest curve has so many times the segments that are enough for n_segments
# Times rtol. A curve is settled when its next step will gain less: that step is taken, and with second derivatives
# known leaves a small part of it. On the coarsest curve more is wasted, on what doubling it changes.
_LAST_TOLERANCE, _FIRST_TOLERANCE = 2, 30
_UNTRIED = 1e-3  # share of the tolerance, for curves of which nothing is learnt yet
_COARSE_STEPS = 5  # a curve that has not settled by then goes on where it has more room
_FALL = 32  # of the gain from one doubling to the next: 16 in the limit (fourth order), 40 as seen on decoders
_LEAST_DAMPING = 0.5
_LOOKS = 4  # times that the second derivatives of a curve are evaluated with one number of segments
_STEPS_SEEN = 6  # after so many steps points between the points are looked at
_JUMPED = 0.1  # more energy on twice as many segments than on 8; the limit falls with their number
_SHORT = 0.1  # largest step, relative to the curve's latent length, that is taken without being evaluated
_LEAST_RIDGE = 1e-8  # first weight of the isotropic term where a step leads farther than the curve is long
_ATTEMPTS = 6  # at a positive definite matrix with all that is known
_LATENT = 1e-4  # weight of the isotropic term in damping, which counts where the metric is singular or nearly so
_EIGENVALUES = 32  # latent dimensions up to which they are computed
_STUCK = 1e6  # damping at which a curve does not move any more
_GOOD, _POOR = 0.75, 0.25  # shares of the predicted gain that a step may bring to be followed by bolder or shorter ones


def solve(problem: Problem) -> Solution:
    r"""Minimise the discrete energy :math:`\sum_i |f(z_{i+1}) - f(z_i)|^2` over points of curves with fixed ends.

    Each step solves one block-tridiagonal system per curve. Its matrix is the Gauss-Newton part and, block by block, a
    secant approximation of the second derivatives, learnt from the changes of the first ones. Where the matrix is not
    positive definite, or where a step does not lower the energy, the Gauss-Newton part and the size of the second
    derivatives get more weight, together with a small isotropic term in latent coordinates. Such a trust region does
    not depend on the number of points, and leaves weak directions of a nearly singular metric free. A damped curve that
    has little left to gain is not believed until its second derivatives were evaluated.

    A discrete curve can gain by jumping over something between two of its points. From time to time, and before it is
    doubled, a curve is looked at between its points; if it jumped, it goes back to the last points where it had not.

    Curves begin with 8 segments. A guess begins with as many as it has, rounded up to 8, 16, 32 ..., but at most
    with the first of 16, 32 ... that reaches ``n_segments``. Curves are doubled along their cubics, to at least
    ``n_segments / 2`` and on until another doubling is expected to gain less than ``rtol``.

    On a chain of affine layers and (leaky) ReLU, and a smooth map behind it, curves begin where the kinks are rounded,
    less and less, and are then polygons with corners at the kinks, which are moved within these by Newton's method on
    the length.

    Source:
        Structured secants: Dennis, Gay & Welsch 1981. The method is this project's own: GEORCE (Rygaard & Hauberg 2024)
        also solves for all points at once, but without connection terms and second derivatives.
    """
    cells = Cells.of(problem.metric, problem.start)
    if cells is not None:
        return _across_kinks(problem, cells)
    enough = _COARSEST
    while enough < problem.n_segments / 2:
        enough *= 2
    n_curves = len(problem.start)
    curves = _Curves(
        path_energy(problem.metric, problem.start, problem.end),
        index=torch.arange(n_curves, device=problem.start.device),
        points=_initial_points(problem, enough),
        steps_left=problem.max_steps.clone(),
    )
    if problem.init is not None:
        curves.look(curves.index)
    if not bool(curves.finite.all()):
        checks.finite("metric along the initial curve", curves.expansion.gradient)
    done: list[tuple[Tensor, Tensor]] = []  # rows and points of finished curves
    status = torch.full_like(problem.max_steps, Status.UNRESOLVED)
    solver_length = problem.start.new_zeros(n_curves)
    n_steps = torch.zeros_like(problem.max_steps)
    doubled = False
    while True:
        coarse = curves.n_segments < enough
        next_gain, settled = curves.descend(
            problem.rtol, doubled=doubled, max_steps=_COARSE_STEPS if curves.n_segments < problem.n_segments else None
        )
        rows = curves.index
        n_steps[rows] = problem.max_steps[rows] - curves.steps_left
        solver_length[rows] = curves.expansion.squares.clamp_min(0).sqrt().sum(-1)
        resolved = settled & (next_gain <= problem.rtol) & (not coarse)
        spent = ~settled & (curves.steps_left == 0)
        reached = torch.where(spent, Status.MAX_STEPS, status[rows])
        status[rows] = torch.where(resolved, Status.CONVERGED, reached)
        ended = resolved | spent | (curves.n_segments >= _FINER * enough)
        going_on, short, unresolved = _sorted_by(torch.where(resolved, 1, 2 * ended))
        curves.forget_jumps(unresolved)
        for ending in (short, unresolved):
            if len(ending):
                done.append((rows[ending], curves.points[ending]))
        if not len(going_on):
            break
        finer = curves.refined(going_on)
        finer.take_back(curves.seen[going_on], ~(2 * finer.expansion.total <= curves.limit[going_on]))
        doubled = True
        # a curve through points where the metric is finite may leave the region where it is
        outside = (~finer.finite).nonzero()[:, 0]
        if len(outside):
            done.append((finer.index[outside], curves.points[going_on[outside]]))
            finer = finer.subset(finer.finite.nonzero()[:, 0])
        curves = finer
    rows, points = zip(*done, strict=True)
    return Solution(Curve.joined([Curve.through(part) for part in points], rows), status, n_steps, solver_length)


def _across_kinks(problem: Problem, cells: Cells) -> Solution:
    """On a map with kinks: along the map with its kinks rounded, less and less, and then exactly."""
    rounded, n_steps = problem, torch.zeros_like(problem.max_steps)
    for width in _WIDTHS:
        metric = as_metric(cells.smooth(width, problem.start))
        left = (problem.max_steps - n_steps + 1) // 2  # the rest is for what follows
        found = solve(replace(rounded, metric=metric, rtol=max(problem.rtol, _ROUNDED_RTOL), max_steps=left))
        n_steps = n_steps + found.n_steps
        rounded = replace(problem, init=found.curve.even_points(problem.n_segments))
    points = found.curve.even_points(2 * problem.n_segments)
    corners, left, more = descend(cells, points, problem.rtol, problem.max_steps - n_steps)
    n_steps = n_steps + more
    spent = (left > problem.rtol) & (n_steps >= problem.max_steps)
    status = torch.where(spent, Status.MAX_STEPS, torch.full_like(n_steps, Status.CONVERGED))
    curve = polygon_curve(corners)
    return Solution(curve, status, n_steps, problem.metric.length(corners))


def _initial_points(problem: Problem, enough: int) -> Tensor:
    n_segments = _COARSEST
    while problem.init is not None and n_segments < min(2 * enough, problem.init.shape[1] - 1):
        n_segments *= 2
    return problem.points(n_segments)


class _Curves:
    """Curves of one number of segments, their energies to second order, and what was learnt about each."""

    def __init__(
        self,
        energy: PathEnergy,
        index: Tensor,
        points: Tensor,
        steps_left: Tensor,
        local_blocks: Tensor | None = None,
        damping: Tensor | None = None,
        ridge: Tensor | None = None,
        exact: Tensor | None = None,
        expansion: Expansion | None = None,
    ):
        self.energy, self.index, self.points, self.steps_left = energy, index, points, steps_left
        self.expansion = energy.expand(points, index).held() if expansion is None else expansion
        # the secant approximation of the local Hessian blocks; none is known at first
        self.local_blocks = torch.zeros_like(self.expansion.block_metric) if local_blocks is None else local_blocks
        self.damping = torch.zeros_like(points[:, 0, 0]) if damping is None else damping
        self.ridge = torch.zeros_like(self.damping) if ridge is None else ridge
        # the last points between which nothing was jumped over
        self.seen = points.clone()
        # where the local blocks were not learnt, but evaluated at these points
        self.exact = torch.zeros_like(self.damping, dtype=torch.bool) if exact is None else exact

    @property
    def n_segments(self) -> int:
        """N."""
        return self.points.shape[1] - 1

    @property
    def finite(self) -> Tensor:
        """``(b,)``"""
        return self.expansion.finite

    def subset(self, rows: Tensor) -> "_Curves":
        """Those of ``rows (b,)``."""
        per_curve = (
            *(self.index, self.points, self.steps_left),
            *(self.local_blocks, self.damping, self.ridge, self.exact, self.expansion),
        )
        return _Curves(self.energy, *(x[rows] for x in per_curve))

    def refined(self, rows: Tensor) -> "_Curves":
        """Those of ``rows (b,)``, with twice as many segments."""
        points = resampled(self.points[rows], 2 * self.n_segments)
        steps_left, damping, ridge = (x[rows] for x in (self.steps_left, self.damping, self.ridge))
        local_blocks = self.energy.refined(self.local_blocks[rows])
        return _Curves(self.energy, self.index[rows], points, steps_left, local_blocks, damping, ridge)

    def jumped(self, rows: Tensor) -> Tensor:
        """Whether the curves of ``rows (b,)`` are much longer between their points than at them: ``(b,)``."""
        between = resampled(self.points[rows], 2 * self.n_segments)
        total = checks.nan_where_not_finite(
            lambda points: self.energy.metric.squared_segments_in_blocks(points).sum(-1), (), between
        )
        return ~(2 * total <= self.limit[rows])

    @property
    def limit(self) -> Tensor:
        """The energy ``(b,)`` above which, on twice as many points, curves are said to have jumped over something."""
        return (1 + _JUMPED * _COARSEST / self.n_segments) * self.expansion.total

    def reach(self, rows: Tensor) -> Tensor:
        """The latent lengths ``(b,)`` of the curves of ``rows (b,)``."""
        return self.points[rows].diff(dim=1).norm(dim=-1).sum(-1)

    def forget_jumps(self, rows: Tensor) -> None:
        """Put those of ``rows (b,)`` that jumped over something back to where nothing was."""
        if len(rows):
            blind = rows[self.jumped(rows).nonzero()[:, 0]]
            self.points[blind] = self.seen[blind]

    def take_back(self, seen: Tensor, jumped: Tensor) -> None:
        """Go on from the points ``seen (b, N / 2 + 1, d)`` where these curves ``jumped (b,)`` over something that only
        these points see, if those are shorter on these points."""
        rows = jumped.nonzero()[:, 0]
        if not len(rows):
            return
        before = _Curves(self.energy, self.index[rows], resampled(seen[rows], self.n_segments), self.steps_left[rows])
        shorter = ~(before.expansion.total >= self.expansion.total[rows]) & before.finite
        shorter = shorter.nonzero()[:, 0]
        chosen = rows[shorter]
        self.points[chosen] = before.points[shorter]
        self.local_blocks[chosen], self.damping[chosen], self.ridge[chosen], self.exact[chosen] = 0, 0, 0, False
        self.expansion.put(chosen, before.expansion, shorter)

    def descend(self, rtol: float, *, doubled: bool, max_steps: int | None) -> tuple[Tensor, Tensor]:
        """Step until there is little left to gain, or for ``max_steps``.

        What doubling a settled curve made it gain at first tells what the next doubling will: curves that will be
        doubled again need settle no further than that.

        Args:
            rtol: relative tolerance in length.
            doubled: whether these curves were doubled before, settled or not.
            max_steps: at most so many steps.

        Returns:
            What the next doubling is expected to gain, relative to the length, ``(b,)`` (infinite where it is not
            known), and whether each curve settled.
        """
        n_curves = len(self.index)
        settled = torch.zeros(n_curves, dtype=torch.bool, device=self.index.device)
        # without second derivatives what is left to gain may look a hundred times smaller than it is
        untried = (self.local_blocks == 0).flatten(1).all(-1)
        next_gain = torch.full_like(self.damping, torch.inf)
        tolerance = torch.full_like(self.damping, rtol * _FIRST_TOLERANCE)
        looks = torch.full_like(self.index, 0 if max_steps is not None else _LOOKS)
        floor = 16 * torch.finfo(tolerance.dtype).eps  # energies are known to the rounding floor only
        active = torch.arange(n_curves, device=self.index.device)
        n = 0
        while len(active):
            step, gain = self._step(active)
            relative = gain / self.expansion.total[active].clamp_min(torch.finfo(gain.dtype).tiny) / 2
            # a damped step gains a part only of what is left to gain
            left = relative * (1 + self.damping[active])
            if n == 0 and doubled:
                next_gain = left / _FALL
                tolerance = next_gain.clamp(rtol * _LAST_TOLERANCE, rtol * _FIRST_TOLERANCE)
            trusted = torch.where(untried[active], tolerance[active] * _UNTRIED, tolerance[active])
            free = self.damping[active] == 0
            trusted = torch.where(free, trusted, trusted.clamp_max(rtol / 2))
            # a long step may not bring what is expected of it, however little that is
            short = step.norm(dim=-1).amax(-1) <= _SHORT * self.reach(active)
            small = (left <= trusted.clamp_min(floor)) & (short | ~free) | (self.damping[active] > _STUCK)
            # of a damped step little is to be expected, and little follows from it: second derivatives tell
            doubtful = small & ~free & ~self.exact[active] & (self.steps_left[active] > 0) & (looks[active] > 0)
            settled[active] = small & ~doubtful
            # the last step costs nothing, as nothing is evaluated after it
            last = small & free
            self.points[active, 1:-1] += torch.where(last[:, None, None], step, 0.0)
            _, trying, looking = _sorted_by(torch.where(~small & (self.steps_left[active] > 0), 1, 2 * doubtful))
            if len(looking):
                rows = active[looking]
                self.look(rows)
                looks[rows] -= 1
                self.damping[rows] = 0
            if not len(trying) + len(looking) or n == max_steps:
                break
            if len(trying):
                self._try(active[trying], step[trying], gain[trying])
                untried[active[trying]] = False
            active = active[torch.cat([trying, looking]).sort().values if len(looking) else trying]
            n += 1
            if n % _STEPS_SEEN == 0:
                active = active[(~self.jumped(active)).nonzero()[:, 0]]
                self.seen[active] = self.points[active]
        return next_gain, settled

    def look(self, rows: Tensor) -> None:
        """Evaluate the local blocks of ``rows (b,)`` instead of learning them."""
        self.local_blocks[rows] = self.energy.exact_blocks(self.points[rows], self.index[rows])
        self.exact[rows] = True

    def _step(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """Steps of the inner points ``(b, N - 1, d)``, and the energy they are expected to gain ``(b,)``."""
        now = self.expansion
        diagonal, right = (x[active] for x in now.gauss_newton)
        gradient = now.gradient[active]
        rest, rest_right = self.energy.spread(self.local_blocks[active])
        if now.connection is not None:
            rest, rest_right = rest + now.connection[0][active], rest_right + now.connection[1][active]
        scale = now.scale[active].clamp_min(torch.finfo(gradient.dtype).tiny)
        reach = self.reach(active)
        step = torch.zeros_like(gradient)
        todo = torch.arange(len(active), device=active.device)
        held = self.damping[active].nonzero()[:, 0]
        damped = len(held) > 0
        for _ in range(_ATTEMPTS):
            rows = active[todo]
            damping, ridge = self.damping[rows], self.ridge[rows]
            matrix, beside = self._matrix(
                (diagonal[todo], right[todo]), (rest[todo], rest_right[todo]), scale[todo], damping, ridge, held
            )
            part, definite = tridiagonal.solve(matrix, beside, -gradient[todo])
            step[todo] = torch.where(definite[:, None, None], part, step[todo])
            # farther than the curve is long the model says nothing
            far = definite & (part.norm(dim=-1).amax(-1) > reach[todo])
            damping = torch.where(definite, damping, (4 * damping).clamp_min(_LEAST_DAMPING))
            self.damping[rows] = damping
            self.ridge[rows] = torch.where(far, (30 * ridge).clamp_min(_LEAST_RIDGE), ridge)
            _, free, held = _sorted_by(torch.where(~definite | far, torch.where(damping > 0, 2, 1), 0))
            todo = todo[torch.cat([free, held])]
            if not len(todo):
                break
            held = torch.arange(len(free), len(todo), device=todo.device)
            damped = damped or len(held) > 0
        else:
            # the secant approximation from elsewhere does not hold here
            self.local_blocks[active[todo]] = 0
            rest[todo], rest_right[todo] = 0, 0
            weight = 1 + self.damping[active[todo]]
            step[todo] = tridiagonal.solve_regularised(diagonal[todo], right[todo], -gradient[todo])
            step[todo] /= weight[:, None, None]
        gain = -(gradient * step).sum((-2, -1))
        if damped:
            # a damped step is not the model's minimum
            bent = tridiagonal.product(diagonal + rest, right + rest_right, step)
            gain = torch.where(self.damping[active] > 0, 2 * gain - (step * bent).sum((-2, -1)), gain)
        return step, gain

    @staticmethod
    def _matrix(
        gauss_newton: tuple[Tensor, Tensor],
        rest: tuple[Tensor, Tensor],
        scale: Tensor,
        damping: Tensor,
        ridge: Tensor,
        held: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The system of a step: the Gauss-Newton part with more weight, the rest, and multiples of the identity."""
        weight = (1 + damping)[:, None, None, None]
        matrix, beside = weight * gauss_newton[0] + rest[0], weight * gauss_newton[1] + rest[1]
        if len(held):
            # in directions in which the metric is small its second derivatives are what must be held
            matrix[held] += (weight[held] - 1) * _size(*(part[held] for part in rest))
        # a small isotropic term for directions in which nothing changes, and more of it after steps that went too far
        latent = (ridge + _LATENT * damping.square()) * scale
        rounding_floor = 10 * torch.finfo(scale.dtype).eps * scale
        matrix.diagonal(dim1=-2, dim2=-1).add_((rounding_floor + 2 * latent)[:, None, None])
        beside.diagonal(dim1=-2, dim2=-1).sub_(latent[:, None, None])
        return matrix, beside

    def _try(self, active: Tensor, step: Tensor, gain: Tensor) -> None:
        """Take the steps that lower the energy, and learn from them."""
        points = self.points[active]
        points[:, 1:-1] += step
        found = self.energy.expand(points, self.index[active], before=self.expansion.memory[0], rows=active)
        self.steps_left[active] -= 1
        share = (self.expansion.total[active] - found.total) / gain
        accepted = found.finite & (share > 0)
        damping = self.damping[active]
        bolder = torch.where(damping > _LEAST_DAMPING / 4, damping / 4, 0.0)
        shorter = (4 * damping).clamp_min(_LEAST_DAMPING)
        damping = torch.where(share > _GOOD, bolder, torch.where(share < _POOR, shorter, damping))
        self.damping[active] = torch.where(accepted, damping, shorter)
        self.ridge[active] = torch.where(share > _GOOD, self.ridge[active] / 3, self.ridge[active])

        chosen = accepted.nonzero()[:, 0]
        moved = active[chosen]
        self.points[moved] = points[chosen]
        self.exact[moved] = False
        self.local_blocks[moved] = _learnt(
            self.local_blocks[moved],
            self.energy.at_blocks(step[chosen]),
            found.change[chosen],
            found.block_metric[chosen],
        )
        self.expansion.put(moved, found, chosen)


def _sorted_by(code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The places in ``code (b,)`` of 0, of 1 and of 2, rising. The host waits once for all three."""
    numbers = (code == torch.arange(3, device=code.device).unsqueeze(-1)).sum(-1).tolist()
    return code.argsort(stable=True).split(numbers)


def _learnt(local_blocks: Tensor, step: Tensor, change: Tensor, metric: Tensor) -> Tensor:
    """The symmetric matrices nearest to ``local_blocks (b, S, d, d)`` that map ``step`` to ``change`` ``(b, S, d)``.

    Nearest in the norm of the metric, which makes it independent of coordinates (Powell's symmetric Broyden update).
    """
    s = step.unsqueeze(-1)
    weighted = metric @ s
    size = s.mT @ weighted
    known = size > torch.finfo(s.dtype).tiny
    v = torch.where(known, weighted / torch.where(known, size, 1.0), 0.0)
    missing = change.unsqueeze(-1) - local_blocks @ s
    update = missing @ v.mT
    return local_blocks + update + update.mT - (s.mT @ missing) * (v @ v.mT)


def _size(diagonal: Tensor, right: Tensor) -> Tensor:
    """Diagonal blocks ``(b, n, d, d)`` of a positive semidefinite matrix that bounds the one with these blocks."""
    if diagonal.shape[-1] <= _EIGENVALUES:
        values, vectors = torch.linalg.eigh(diagonal)
        out = vectors @ (values.abs().unsqueeze(-1) * vectors.mT)
    else:
        out = torch.diag_embed(diagonal.abs().sum(-1))  # Gershgorin's bound, which costs nothing
    beside = torch.linalg.matrix_norm(right)[..., None, None] * torch.eye(diagonal.shape[-1]).to(diagonal)
    out[:, :-1] += beside
    out[:, 1:] += beside
    return out
