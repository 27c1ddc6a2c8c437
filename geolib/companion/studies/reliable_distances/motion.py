"""Notebook 14: geodesics between human poses, walking and balancing (Chen et al. 2018)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import PullbackMetric, geodesic, magnification_factor
from geolib.companion.cache import progress
from geolib.companion.data import motion
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import generators
from geolib.companion.models.generators import MeanGenerator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import evenness, magnification, spread, summaries
from geolib.companion.studies.evenness import Evenness
from geolib.companion.studies.evidence import number
from geolib.companion.studies.spread import Spread
from geolib.paths.result import Geodesic

KEY, NAME = "CH-5", "human motion"
KINDS = ("walking", "balance", "one of each")
"""where the two poses of a pair are from; a third of the pairs is of each kind"""
EVENLY = evenness.evenly(KEY, NAME)
LOW = magnification.follow_low(KEY, NAME)
_MARGIN = 0.2


@dataclass(frozen=True)
class Pairs:
    """Indices of test poses that are joined."""

    first: Tensor
    """``(n,)``"""
    second: Tensor
    """``(n,)``"""
    kind: Tensor
    """``(n,)``, of ``KINDS``"""


@dataclass(frozen=True)
class Motion:
    """The latent space of poses with its metric, geodesics and straight lines."""

    g: MeanGenerator
    grid: LatentGrid
    log_volume: Tensor
    """``(ny, nx)``, log sqrt det M"""
    log_volume_at_data: Tensor
    """``(m,)``, at the test latents"""
    pairs: Pairs
    curves: Evenness
    lower: Tensor
    """``(n,)``, mean of log sqrt det M along the geodesic less that along the line, by latent length"""
    converged: Tensor
    """``(n,)``"""
    error: float
    """metres, root mean square over test poses and joints, of what the decoder makes of an encoded pose"""

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.lower)

    @property
    def n_converged(self) -> int:
        """How many of the curves are geodesics."""
        return int(self.converged.sum())

    def least_even(self, kind: int | None = None) -> int:
        """The pair whose line is least even, of all or of one kind: what the claim is about is largest there."""
        variation = self.curves.line_variation
        if kind is not None:
            variation = variation.where(self.pairs.kind == kind, torch.tensor(-math.inf, dtype=variation.dtype))
        return int(variation.argmax())

    @torch.no_grad()
    def poses(self, name: str, n: int) -> Tensor:
        """Joint positions ``(n, J, 3)``, metres, at equal steps of the parameter of the least even pair.

        Args:
            name: ``"line"`` or ``"geodesic"``.
            n: of poses, both ends among them.
        """
        at = torch.linspace(0, evenness.STEPS, n).round().long()
        latents = getattr(self.curves, name)[self.least_even()][at]
        return motion.metres(self.g.model.mean(latents.to(self.g.test_latents)).cpu())

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = self.curves.numbers(KEY, NAME)
        for kind, title in enumerate(KINDS):
            for name, what in (("line", "straight lines"), ("geodesic", "geodesics")):
                values = getattr(self.curves, f"{name}_variation")[self.pairs.kind == kind]
                quantity = f"{NAME}, {title}: coefficient of variation of the output's steps, {what}"
                note = f"half its 95 % interval {float(summaries.half_width(values)):.3f}, {len(values)} pairs"
                rows.append(number(KEY, quantity, summaries.mean(values), note=note))
        return [
            *rows,
            magnification.row(KEY, NAME, self.lower),
            number(KEY, f"{NAME}: geodesics that converged", self.n_converged, note=f"of {self.n}"),
            number(
                KEY,
                f"{NAME}: error of decoded test poses",
                100 * self.error,
                unit="cm",
                note="root mean square over joints",
            ),
        ]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on what the slides show: none where fewer than half of the curves are geodesics."""
        trusted = 2 * self.n_converged >= self.n
        return [
            self.curves.decide(EVENLY, trusted=trusted),
            magnification.decide(LOW, self.lower, trusted=trusted),
        ]

    @property
    def words(self) -> str:
        """How evenly poses change, in words."""
        line, curve = (self.curves.words(name) for name in ("line", "geodesic"))
        kinds = ", ".join(f"{self._of_kind('line', kind)} ({title})" for kind, title in enumerate(KINDS))
        return (
            f"The coefficient of variation of the pose's steps is {line} along straight lines and {curve} along "
            f"geodesics (mean of {self.n} pairs and 95 % interval; {self.n_converged} geodesics converged). By kind of "
            f"pair it is {kinds} along straight lines. We call a change even below {evenness.EVEN:g}: that holds for "
            f"{self._n_even('line')} of {self.n} straight lines and {self._n_even('geodesic')} of {self.n} geodesics."
        )

    @property
    def volume_words(self) -> str:
        """Where geodesics run, in words."""
        return magnification.words(self.lower)

    @property
    def steps_words(self) -> str:
        """The smallest and the largest of the changes between the poses that are shown, in words."""
        told = []
        for name, what in (("line", "straight line"), ("geodesic", "geodesic")):
            change = 100 * changes(self.poses(name, evenness.STEPS + 1))
            told.append(f"{float(change.min()):.1f} to {float(change.max()):.1f} cm per step along the {what}")
        return f"The joints move by {' and '.join(told)}."

    def _n_even(self, name: str) -> int:
        return int((getattr(self.curves, f"{name}_variation") < evenness.EVEN).sum())

    def _of_kind(self, name: str, kind: int) -> str:
        return f"{summaries.mean(getattr(self.curves, f'{name}_variation')[self.pairs.kind == kind]):.3f}"


@dataclass(frozen=True)
class Trainings:
    """How much the mean coefficients of variation depend on the training."""

    line: Spread
    geodesic: Spread

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table; none for one training."""
        quantity = f"{NAME}: mean coefficient of variation of the output's steps"
        return self.line.rows(f"{quantity}, straight lines") + self.geodesic.rows(f"{quantity}, geodesics")

    @property
    def words(self) -> str:
        """The same, in words."""
        n = len(self.line.estimates)
        if n == 1:
            return "All of this is of one training."
        line, curve = (f"{min(each.estimates):.3f} to {max(each.estimates):.3f}" for each in (self.line, self.geodesic))
        return f"Over {n} trainings the mean is {line} along straight lines and {curve} along geodesics."


def changes(poses: Tensor) -> Tensor:
    """How far joints move between neighbouring poses ``(n, J, 3)``: root mean square over joints, ``(n - 1,)``."""
    return poses.diff(dim=0).square().sum(-1).mean(-1).sqrt()


def pairs(data: ImageData, n_pairs: int, *, seed: int) -> Pairs:
    """Pairs of test poses, a third of each of ``KINDS``; a pose can be in several pairs.

    Args:
        data: poses.
        n_pairs: at least three.
        seed: of the draws.

    Raises:
        ValueError: for fewer than three pairs.
    """
    if n_pairs < len(KINDS):
        raise ValueError(f"n_pairs: got {n_pairs}, expected at least {len(KINDS)}")
    random = torch.Generator().manual_seed(seed)
    walking = data.test_labels == motion.WALKING
    groups = [walking.nonzero().squeeze(-1), (~walking).nonzero().squeeze(-1)]
    first, second = [], []
    kind = torch.arange(n_pairs) % len(KINDS)
    for each in kind.tolist():
        sources = [groups[each]] * 2 if each < len(groups) else groups
        places = [int(torch.randint(len(group), (), generator=random)) for group in sources]
        if each < len(groups) and places[0] == places[1]:
            places[1] = (places[0] + 1) % len(groups[each])
        first.append(sources[0][places[0]])
        second.append(sources[1][places[1]])
    return Pairs(torch.stack(first), torch.stack(second), kind)


def measure(g: MeanGenerator, *, n_pairs: int, resolution: int, seed: int) -> Motion:
    """The geometry of an IWAE of poses.

    Args:
        g: the model.
        n_pairs: pairs of test poses that are joined.
        resolution: points of a map along each axis.
        seed: of the pairs.
    """
    progress.say("map and geodesics")
    metric = generators.mean_in_double(g)
    chosen = pairs(g.data, n_pairs, seed=seed)
    curves = _joined(metric, g, chosen)
    found = evenness.measure(metric.mean, curves)
    grid = LatentGrid.around(g.test_latents.double(), resolution=resolution, margin=_MARGIN)
    return Motion(
        g,
        grid,
        magnification_factor(metric(grid.points)).log().cpu(),
        magnification_factor(metric(g.test_latents.double())).log().cpu(),
        chosen,
        found,
        magnification.lower(metric, found),
        curves.converged.cpu(),
        _error(g),
    )


def over_trainings(found: Motion, others: list[MeanGenerator]) -> Trainings:
    """Evenness between the same poses in models that were trained from other seeds.

    Args:
        found: of the first model.
        others: of the same data.
    """
    measured = [found.curves]
    for k, g in enumerate(others, start=2):
        progress.say(f"geodesics of training {k} of {len(others) + 1}")
        metric = generators.mean_in_double(g)
        measured.append(evenness.measure(metric.mean, _joined(metric, g, found.pairs)))
    return Trainings(
        spread.of_means([curves.line_variation for curves in measured]),
        spread.of_means([curves.geodesic_variation for curves in measured]),
    )


def _joined(metric: PullbackMetric, g: MeanGenerator, chosen: Pairs) -> Geodesic:
    start, end = (g.test_latents[index].double() for index in (chosen.first, chosen.second))
    return geodesic(metric, start, end, latents=g.train_latents.double())


@torch.no_grad()
def _error(g: MeanGenerator) -> float:
    made, real = (motion.metres(x.cpu()) for x in (g.model.mean(g.test_latents), g.data.test_images))
    return math.sqrt(summaries.mean((made - real).square().sum(-1)))
