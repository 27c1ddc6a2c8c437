"""``geodesic()``: checks its input, splits the pairs into blocks and gives them to one method."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from geolib import checks
from geolib.attempts import Task
from geolib.paths.lost import finite_lines, kept_lines, solve_the_others
from geolib.paths.measure import differentiable_length
from geolib.paths.near import near_pairs
from geolib.paths.result import Geodesic, GeodesicError, Status, joined
from geolib.paths.starts.graph import LatentGraph
from geolib.paths.starts.lattice import lattice_paths
from geolib.paths.starts.routes import WAYS, Paths
from geolib.riemannian import Metric, RiemannianMetric, as_metric
from geolib.solvers import DETOURS, SOLVERS

METHODS = tuple(SOLVERS)
STARTS = ("auto", "line", "graph", "best")


def geodesic(
    metric: Metric,
    start: Tensor,
    end: Tensor,
    *,
    method: str = "newton",
    n_segments: int = 32,
    init: str | Tensor = "auto",
    latents: Tensor | None = None,
    rtol: float = 1e-4,
    max_steps: int = 300,
    throw: bool = False,
    differentiable: bool = False,
    **options: object,
) -> Geodesic:
    r"""Shortest curves between pairs of latent points: minimisers of :math:`\int |\gamma'|_M^2 dt`.

    What is often asked, such as why energy and not length, or when to trust a curve, ``notebooks/FAQ.md`` answers.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``, differentiable by torch.
        start: ``(..., d)``; broadcast against ``end``. Their dtype and device are those of the whole computation.
        end: ``(..., d)``.
        method: one of ``METHODS``: ``"newton"`` for speed and accuracy, ``"spline"`` for the paper's own; the files of
            ``geolib.solvers`` say what each does and where it comes from.
        n_segments: segments of the discretised curve, and of the result's ``points``. Where the tolerance asks for it,
            a method works with more.
        init: where curves begin: ``"line"``; ``"auto"``, which for all methods but the default is the line, and for
            the default the best of these: where latents are given, the shortest path over their graph, and in the
            plane the one over a lattice around each pair, each with another way that is nearly as short, where there
            is one. Where none is clearly shorter than the line, it is the line. Where they lead apart, curves from all
            are compared before one is followed to its end. In more than two dimensions without latents it is the line,
            and lines bowed to the sides are looked at after it: where one is about as short as the curve found, what
            it leads to is compared with that; ``"graph"``, the shortest path over
            ``LatentGraph(metric, latents)`` where that is clearly shorter than the line; ``"best"``, both, of which
            the shorter result is returned; or initial curves ``(..., n + 1, d)`` that run from start to end at equal
            steps of t.
        latents: ``(n, d)``, the points that a graph is built on, such as the encoded data; needed where ``init`` or
            ``method`` is ``"graph"``, and for ``"best"``.
        rtol: relative tolerance in length: a curve is done when it is a geodesic to this tolerance (``is_geodesic``)
            and a further refinement would gain less; lengths are measured at least as finely.
        max_steps: the most steps per curve, all attempts together.
        throw: raise where a curve did not converge, instead of reporting it in ``status``.
        differentiable: give ``length`` a gradient in ``start``, in ``end`` and in the parameters of the metric's maps,
            at the cost of one more measurement: nothing of the solver is recorded. First derivatives only, as accurate
            as about the square root of ``rtol`` at worst. A curve that did not converge has the gradient of the curve's
            own length, as its points follow the ends in proportion, which is not that of the distance; the same point
            has gradient zero. Nothing else in the result has a gradient.
        **options: the method's own.

    Returns:
        a ``Geodesic``. A local minimum: among several geodesics between two points it need not be the shortest. A
        curve that did not converge is still the shortest found, never longer than the straight line; ``converged``
        and ``status`` tell. A pair whose method is led to where the metric is not finite (NaN, inf) is ``NOT_FINITE``
        and costs no other pair its result: it keeps the shortest curve before that, mostly the straight line, whose
        length is NaN where the metric is not finite on it. A feature of the metric that is narrower than a curve's
        latent length over ``2 n_segments`` can be missed by all measures. Where mean and ``std``, with ``features``
        behind, are chains
        (``nn.Sequential``) of affine layers, ReLU and leaky ReLU, and behind the last of these of smooth layers (a
        sigmoid, or a module that brings its second derivatives, like that of ``fit_rbf_precision``), shortest curves
        have corners at the kinks; ``newton`` finds them as polygons, and ``converged`` says that none through the same
        cells is shorter by more than ``rtol``; one through other cells may be, by up to ten ``rtol`` as far as was
        seen. At all other kinks (ReLU called as a function, or behind a smooth layer) the geodesic
        equation does not hold, and curves across many of them may be short and yet end as ``NOT_GEODESIC``: prefer
        ``nn.ReLU`` in an ``nn.Sequential``, or smooth layers (tanh, SiLU, ELU, softplus).
        Between points so near that rounding would spoil sums along a curve (1e-3 apart in float32, 1e-11 in float64),
        the straight line is taken where it is a geodesic to ``rtol``, and its length is that of its tangent.
        Memory stays flat in the number of pairs but for the result itself: they are worked on in
        blocks, whose size follows from the metric's ``chunk_size``.

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape, dtype or device; for no pairs; for an option that
            the method does not have; where the metric is not finite at a start or an end; for a callable that is
            random, mixes the rows of a batch, changes without passing a gradient, or is not symmetric and positive
            semidefinite at some of the ends and the points between them.
        GeodesicError: with ``throw``, where a curve did not converge.

    Source:
        Michelis & Becker 2021, Sec. 2.1.
    """
    metric = as_metric(metric)
    solve = SOLVERS[checks.one_of("method", method, METHODS)]
    _check_options(method, solve, options)
    n_segments = checks.integer("n_segments", n_segments, at_least=4)
    max_steps = checks.integer("max_steps", max_steps, at_least=1)
    checks.positive("rtol", rtol)
    ends = (start, end)
    start, end, batch = checks.pairs(start, end)
    guess = _check_init(init, start, end, batch)
    if latents is not None:
        _check_latents(latents, start)

    with torch.no_grad():
        metric.try_at(torch.cat([start, (start + end) / 2, end]))
        graph = functools.cache(functools.partial(_graph, metric, latents))
        start_paths = _start_paths(metric, init, latents, method, start.shape[-1], graph)
        seeks = init == "auto" and method == METHODS[0] and start_paths is None
        task = Task(
            metric, functools.partial(solve, **options), n_segments, rtol, max_steps, graph, DETOURS.get(method), seeks
        )
        size = metric.curves_at_once(start[:1].unsqueeze(1).expand(1, n_segments + 1, -1))
        connected = torch.ones(len(start), dtype=torch.bool, device=start.device)

        def near(rows: Tensor) -> list[tuple[Tensor, Geodesic]]:
            chosen, lines = near_pairs(metric, start[rows], end[rows], n_segments, rtol)
            return [] if lines is None else [(rows[chosen], lines)]

        def solved(rows: Tensor) -> list[tuple[Tensor, Geodesic]]:
            if start_paths is None:
                jobs = [(rows, [None if guess is None else guess[rows]], None)]
            else:
                paths = start_paths(start[rows], end[rows])
                connected[rows] = paths.connected
                jobs = [(rows[~paths.shorter], [None], None)]
                # apart, as rivals change how a pair begins, which must not depend on its neighbours
                for several in (False, True):
                    chosen = paths.shorter & (paths.rivalled == several)
                    path = paths.points[chosen]
                    guesses = [None, path] if init == "best" else [path]
                    jobs.append((rows[chosen], guesses, paths.rivals(chosen) if several else None))
            return [
                (chosen, task.solve(start[chosen], end[chosen], guesses, rivals))
                for chosen, guesses, rivals in jobs
                if len(chosen)
            ]

        def finite(rows: Tensor) -> Tensor:
            return finite_lines(metric, start[rows], end[rows], n_segments)

        far = torch.arange(len(start), device=start.device)
        found, lost = [], []
        if guess is None:
            found = solve_the_others(near, far, lost, finite)
            for rows in (*(rows for rows, _ in found), *lost):
                far = far[torch.isin(far, rows, invert=True)]
        for rows in far.tensor_split(math.ceil(len(far) / size)) if len(far) else ():
            found += solve_the_others(solved, rows, lost, finite)
        if lost:
            rows = torch.cat(lost)
            found.append((rows, kept_lines(metric, start[rows], end[rows], n_segments, rtol)))
        order, parts = zip(*found, strict=True)
        result = joined(parts, torch.cat(order), batch)
        # whatever a metric does with points that are no numbers
        known = torch.isfinite(result.points).flatten(-2).all(-1) & torch.isfinite(result.length)
        result.status.masked_fill_(~known, Status.NOT_FINITE)
        if init == "graph":
            result.status[(result.status == Status.CONVERGED) & ~connected.reshape(batch)] = Status.CONVERGED_FROM_LINE
    if throw and not bool(result.converged.all()):
        raise GeodesicError(result.report())
    if differentiable and torch.is_grad_enabled():
        ends = [x.expand(*batch, x.shape[-1]).reshape(-1, x.shape[-1]) for x in ends]
        lengths = [
            differentiable_length(metric, part.curve, part.length, *(x[rows] for x in ends), n_segments, rtol)
            if not lost or part is not parts[-1]
            else part.length
            for part, rows in zip(parts, order, strict=True)
        ]
        result = replace(result, length=torch.cat(lengths)[torch.cat(order).argsort()].reshape(batch))
    return result


def _start_paths(
    metric: RiemannianMetric,
    init: str | Tensor,
    latents: Tensor | None,
    method: str,
    d: int,
    graph: Callable[[], LatentGraph],
) -> Callable[[Tensor, Tensor], Paths] | None:
    """What gives pairs of points their first paths, or None where they begin as lines or guesses."""
    if not isinstance(init, str) or init == "line" or (init == "auto" and method != METHODS[0]):
        return None
    if init != "auto":
        return lambda start, end: graph().trusted_paths(start, end)
    searches = [] if latents is None else [lambda start, end: graph().trusted_paths(start, end, most=WAYS)]
    if d == 2:
        searches.append(functools.partial(lattice_paths, metric, most=WAYS))
    if not searches:
        return None
    return lambda start, end: functools.reduce(Paths.and_also, (search(start, end) for search in searches))


def _check_options(method: str, solve: object, options: dict[str, object]) -> None:
    known = [p.name for p in inspect.signature(solve).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise TypeError(f"{name}: not an option of method {method!r}, which has {', '.join(known) or 'none'}")


def _graph(metric: RiemannianMetric, latents: Tensor | None) -> LatentGraph:
    if latents is None:
        raise ValueError("latents: got None, expected the points (n, d) that a graph is built on, such as encoded data")
    return LatentGraph.trusted(metric, latents)


def _check_latents(latents: Tensor, start: Tensor) -> None:
    checks.latent_points("latents", latents)
    checks.same_kind("latents", latents, "start", start)
    if latents.ndim != 2 or latents.shape[-1] != start.shape[-1]:
        raise ValueError(f"latents: got shape {tuple(latents.shape)}, expected (n, {start.shape[-1]})")
    if len(latents) == 0:
        raise ValueError(f"latents: got shape {tuple(latents.shape)}, expected (..., n, d) with n >= 1")


def _check_init(init: str | Tensor, start: Tensor, end: Tensor, batch: torch.Size) -> Tensor | None:
    """First guesses ``(B, n + 1, d)`` with exact ends, or None where a word says how to begin."""
    if isinstance(init, str):
        checks.one_of("init", init, STARTS)
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
