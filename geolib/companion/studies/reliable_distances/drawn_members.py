"""B-7: the energy of a curve with a member of the ensemble drawn anew at every node, and what its minimisers do."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import PullbackMetric, curve_length, geodesic
from geolib.companion.cache import progress
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.studies.evidence import number
from geolib.paths.result import Geodesic
from geolib.variance import Ensemble

CLASSES = (2, 7)
"""of the pair"""
_N_DRAWS = 50
_STEPS = 300  # of L-BFGS
_FINE = 1024


@dataclass(frozen=True)
class Level:
    """One number of segments N."""

    points: Tensor
    """``(N + 1, 2)``, the minimiser of the expected energy with a member drawn at every node"""
    length: float
    """of that curve under the expected metric"""
    expected: float
    """the geodesic's length at N segments under the expected metric"""
    drawn: Tensor
    """``(draws,)``, the geodesic's length at N segments with a member drawn at every node"""
    predicted: float
    """what the formula says of the mean of ``drawn``"""

    @property
    def n_segments(self) -> int:
        """N."""
        return len(self.points) - 1

    @property
    def largest_step(self) -> float:
        """The largest latent step over the mean one."""
        steps = self.points.diff(dim=0).norm(dim=-1)
        return float(steps.max() / steps.mean())


@dataclass(frozen=True)
class DrawnMembers:
    """One pair of test latents at growing numbers of segments."""

    g: Generator
    members: Ensemble
    """in float64"""
    geodesic: Geodesic
    """under the expected metric"""
    levels: list[Level]

    @property
    def excess(self) -> list[float]:
        """By how much longer than the geodesic the minimisers are under the expected metric, relatively."""
        return [level.length / float(self.geodesic.length) - 1 for level in self.levels]

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = [number("B-7", "length of the geodesic of the expected metric", float(self.geodesic.length))]
        for level, excess in zip(self.levels, self.excess, strict=True):
            n, note = level.n_segments, f"{_N_DRAWS} draws, standard deviation {float(level.drawn.std()):.3g}"
            rows += [
                number("B-7", f"N = {n}: its length under the expected metric", level.expected),
                number("B-7", f"N = {n}: its length with drawn members", float(level.drawn.mean()), note=note),
                number("B-7", f"N = {n}: the same by the formula", level.predicted),
                number("B-7", f"N = {n}: minimiser with drawn members, longer by", 100 * excess, unit="%"),
                number("B-7", f"N = {n}: its largest latent step over the mean one", level.largest_step),
            ]
        return rows

    @property
    def how_it_grows(self) -> str:
        """The lengths with drawn members, in words."""
        first, last = self.levels[0], self.levels[-1]
        ratio = float(last.drawn.mean() / first.drawn.mean())
        return (
            f"From {first.n_segments} to {last.n_segments} segments the length of one and the same curve with drawn "
            f"members grows {ratio:.1f} times. Under the expected metric it goes from {first.expected:.2f} to "
            f"{last.expected:.2f}, the length of a polygon with more and more corners on the curve"
        )

    @property
    def what_it_does(self) -> str:
        """What the minimisers do as N grows, in words."""
        first, last = self.levels[0], self.levels[-1]
        return (
            f"The largest latent step of the minimiser is {first.largest_step:.1f} times its mean step at "
            f"{first.n_segments} segments and {last.largest_step:.1f} times at {last.n_segments}. Its length under the "
            f"expected metric is {100 * self.excess[0]:.1f} and {100 * self.excess[-1]:.1f} % above the geodesic's"
        )


def expected_energy(members: Ensemble, points: Tensor) -> Tensor:
    r"""The expectation of N times the squared steps between images of which each has a member of its own, a scalar.

    .. math:: N \sum_i |m_i - m_{i+1}|^2 + |s_i|^2 + |s_{i+1}|^2

    Args:
        members: the ensemble.
        points: ``(N + 1, d)``.
    """
    mean, std = members.mean(points), members.std(points)
    squares = std.square().sum(-1)
    return (len(points) - 1) * (mean.diff(dim=0).square().sum() + squares[1:].sum() + squares[:-1].sum())


def measure(g: Generator, members: Ensemble, *, n_segments: int, seed: int) -> DrawnMembers:
    """The pair nearest to the means of two classes, at 8, 16, ... segments.

    Args:
        g: the VAE.
        members: more decoders for the latents of its encoder.
        n_segments: the largest number of segments.
        seed: of the draws of members.
    """
    exact = copy.deepcopy(members).double()
    metric = PullbackMetric(exact)
    start, end = (z.double() for z in generators.class_pair(g, *CLASSES))
    shortest = geodesic(metric, start, end)
    random = torch.Generator().manual_seed(seed)
    levels, n = [], 8
    while n <= n_segments:
        progress.say(f"members drawn at {n + 1} nodes")
        curve = shortest.curve(torch.linspace(0, 1, n + 1).to(start))
        images = torch.stack(exact.members(curve))
        chosen = torch.randint(len(images), (_N_DRAWS, n + 1), generator=random).to(start.device)
        drawn = images[chosen, torch.arange(n + 1)].diff(dim=1).norm(dim=-1).sum(-1)
        points = _minimiser(exact, curve)
        lengths = (float(curve_length(metric, x)) for x in (_refined(points), curve))
        levels.append(Level(points.cpu(), *lengths, drawn.cpu(), _drawn(images)))
        n *= 2
    return DrawnMembers(g, exact, shortest, levels)


def _drawn(images: Tensor) -> float:
    """The mean length over all draws of a member per node, of images ``(K, N + 1, D)``."""
    steps = images[:, None, :-1] - images[None, :, 1:]  # every member at one node and every one at the next
    return float(steps.norm(dim=-1).mean((0, 1)).sum())


def _minimiser(members: Ensemble, curve: Tensor) -> Tensor:
    """The curve ``(N + 1, d)`` of least ``expected_energy`` with the same ends, from ``curve`` on."""
    inner = curve[1:-1].clone().requires_grad_()
    optimizer = torch.optim.LBFGS([inner], max_iter=_STEPS, tolerance_change=1e-10, line_search_fn="strong_wolfe")

    def whole() -> Tensor:
        return torch.cat([curve[:1], inner, curve[-1:]])

    def closure() -> Tensor:
        optimizer.zero_grad()
        energy = expected_energy(members, whole())
        energy.backward()
        return energy

    with torch.enable_grad():
        optimizer.step(closure)
    return whole().detach()


def _refined(points: Tensor) -> Tensor:
    """More points on the same polygon, so that its length is measured and not that of its chords."""
    times = max(1, _FINE // (len(points) - 1))
    t = torch.arange(times).to(points) / times
    inner = torch.lerp(points[:-1, None], points[1:, None], t[:, None]).flatten(0, 1)
    return torch.cat([inner, points[-1:]])
