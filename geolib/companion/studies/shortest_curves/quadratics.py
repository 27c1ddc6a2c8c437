"""The quadratics of Yang & Hauberg 2018 between points of two moons: found, counted and timed, for notebook 07."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib import LatentGraph, PullbackMetric, curve_length, geodesic
from geolib.companion.cache.timing import Timed, measured
from geolib.companion.data.datasets import ImageData
from geolib.companion.data.moons import SCALE
from geolib.companion.models.generators import Generator
from geolib.companion.studies.shortest_curves.solvers import Counted
from geolib.curves import straight
from geolib.paths.problem import Problem
from geolib.riemannian import as_metric
from geolib.solvers import quadratic

N_SEGMENTS, RTOL, MAX_STEPS = 32, 1e-4, 300  # geodesic()'s own
N_POINTS = 257  # of a curve that is drawn or measured, at equal steps of t


@dataclass(frozen=True)
class Pairs:
    """Indices of test points to be joined."""

    first: Tensor
    """(n,)"""
    second: Tensor
    """(n,)"""
    across: Tensor
    """(n,), whether they lie on different moons"""
    shown: Tensor
    """(n,), whether a figure has room for them"""


def pairs(data: ImageData, *, n_places: int = 4) -> Pairs:
    """All pairs of ``n_places`` test points on either moon, spread evenly along it: first those on one moon.

    Args:
        data: two moons, whose points are in their order along the moons.
        n_places: places per moon; at least 2.

    Returns:
        ``n_places (n_places - 1)`` pairs on one moon, the upper one first, and ``n_places ** 2`` across.

    Raises:
        ValueError: where a moon has fewer test points than places.
    """
    places = []
    for label in (0, 1):
        own = (data.test_labels == label).nonzero()[:, 0]
        if not 2 <= n_places <= len(own):
            raise ValueError(f"n_places: got {n_places}, expected 2 to {len(own)}")
        # not the very tips, beyond which there are no data to hold a curve
        at = torch.linspace(0.04, 0.96, n_places, dtype=torch.float64) * (len(own) - 1)
        places.append(own[at.round().long()])
    upper, lower = places
    i, j = torch.triu_indices(n_places, n_places, 1)
    first = torch.cat([upper[i], lower[i], upper.repeat_interleave(n_places)])
    second = torch.cat([upper[j], lower[j], lower.repeat(n_places)])
    # few enough to tell apart: from one end of each moon to the two farthest places; across, at three places
    long = (j == n_places - 1) & (i <= 1)
    same_place = torch.zeros(n_places, n_places, dtype=torch.bool)
    for place in (0, n_places // 2, n_places - 1):
        same_place[place, place] = True
    visible = torch.cat([long, long, same_place.flatten()])
    return Pairs(first, second, data.test_labels[first] != data.test_labels[second], visible)


def rms_error(g: Generator) -> float:
    """Root mean squared distance of the test points from their reconstructions, as a share of the moons' radius."""
    images = g.data.test_images.to(g.test_latents)
    return float((g.vae.mean(g.test_latents) - images).square().sum(-1).mean().sqrt()) / SCALE


def compared(g: Generator, start: Tensor, end: Tensor, *, repeats: int = 3) -> dict[str, Timed]:
    """Quadratics without and with warm start, and curves that are free to bend, each timed.

    Args:
        g: the generator.
        start: latents ``(n, 2)``; all pairs are solved at once.
        end: latents ``(n, 2)``.
        repeats: runs of the quadratics that are timed. The others take far longer, and are run once.

    Returns:
        A ``Geodesic`` of batch shape ``(n,)`` and the median seconds of ``geodesic()``: ``"cold"`` and ``"warm"`` for
        quadratics; ``"newton"`` begun from straight lines, and ``"graph"``, Newton's method begun from shortest paths
        over a graph of the training latents.

    Source:
        Yang & Hauberg 2018 for the quadratics and the warm start.
    """
    solve = functools.partial(geodesic, g.metric, start, end, n_segments=N_SEGMENTS, rtol=RTOL, max_steps=MAX_STEPS)
    quadratics = {
        "cold": functools.partial(solve, method="quadratic"),
        "warm": functools.partial(solve, method="quadratic", warm_start=True),
    }
    free = {
        "newton": functools.partial(solve, init="line"),
        "graph": functools.partial(solve, init="graph", latents=g.train_latents),
    }
    return measured(quadratics, repeats=repeats) | measured(free, repeats=1)


@dataclass(frozen=True)
class Descended:
    """Where the descent to quadratics ended, also where they are longer than straight lines."""

    points: Tensor
    """(n, 257, 2), at equal steps of t"""
    longer: Tensor
    """(n,), whether they are longer than the straight line by more than a thousandth"""
    n_evaluations: float
    """points and cotangents that passed through the decoder's mean, per curve"""


@torch.no_grad()
def descended(
    g: Generator, start: Tensor, end: Tensor, *, n_segments: int = N_SEGMENTS, **options: object
) -> Descended:
    """The quadratics of one descent alone: ``geodesic()`` would check them, try again, and never be above the line.

    Args:
        g: the generator.
        start: latents ``(n, 2)``.
        end: latents ``(n, 2)``.
        n_segments: N - 1 of Eq. 4.
        **options: of ``geolib.solvers.quadratic``: ``warm_start``, ``noise``.

    Source:
        Yang & Hauberg 2018, Eqs. 4 to 6.
    """
    mean = Counted(g.vae.mean).eval()
    steps = torch.full((len(start),), MAX_STEPS, device=start.device)
    problem = Problem(as_metric(PullbackMetric(mean, g.rbf)), start, end, None, n_segments, RTOL, steps, _no_graph)
    curve = quadratic.solve(problem, **options).curve
    points = curve(torch.linspace(0, 1, N_POINTS, dtype=start.dtype, device=start.device))
    line = curve_length(g.metric, straight(start, end, N_POINTS - 1))
    return Descended(points, curve_length(g.metric, points) > 1.001 * line, mean.evaluations / len(start))


@torch.no_grad()
def evaluation_seconds(g: Generator, *, n_points: int = 4096, repeats: int = 15) -> tuple[float, float]:
    """Median seconds to evaluate the decoder's mean, and the RBF precision, at ``n_points`` latents at once.

    That the second takes far less is what the warm start of Yang & Hauberg 2018 rests on.
    """
    z = g.train_latents[torch.arange(n_points, device=g.train_latents.device) % len(g.train_latents)]
    tasks = {"mean": functools.partial(g.vae.mean, z), "precision": functools.partial(g.rbf.precision, z)}
    timed = measured(tasks, repeats=repeats)
    return timed["mean"].seconds, timed["precision"].seconds


def seconds(g: Generator, timed: dict[str, Timed]) -> dict[str, float]:
    """The times of ``compared``, and those of evaluating ``"mean"`` and ``"precision"`` once, for files."""
    mean, precision = evaluation_seconds(g)
    return {name: each.seconds for name, each in timed.items()} | {"mean": mean, "precision": precision}


def _no_graph() -> LatentGraph:
    raise ValueError("latents: none were given, and a quadratic needs none")
