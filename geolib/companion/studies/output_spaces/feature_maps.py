"""Notebook 10: geodesics under feature maps, and the classes that they cross (Michelis & Becker 2021, App. B)."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import ndimage, stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from geolib import PullbackMetric, geodesic, global_distances
from geolib.companion.cache import measurements, progress
from geolib.companion.models import generators
from geolib.companion.models.features import MAPS, Logistic, VGGWeights
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number

_REVISION = 1  # counts changes of this file that change what is measured
STEPS = 256  # of equal latent length, after each of which the most probable class is asked for
PATHS = ("line", "geodesic", *MAPS)
_N_SEGMENTS = 128
# of the grid: probabilities are nearly constant within a class, and their metric has narrow walls between classes
_CELLS = {"geodesic": 128, "logits": 128, "probabilities": 256}
_REACH = 4
_MARGIN = 0.1


def _fewer(name: str) -> Claim:
    return Claim(
        "MB-3",
        f"geodesics under logistic regression ({name}) pass through fewer classes",
        "fewer changes of the most probable class than on straight lines, and than on geodesics without a feature map, "
        "in more pairs than the reverse; both by a sign test at 5 %",
        lambda line, line_p, geodesic, geodesic_p: min(line, geodesic) > 0.5 and max(line_p, geodesic_p) < 0.05,
    )


def _as_few_as_possible(name: str) -> Claim:
    return Claim(
        "MB-3",
        f"geodesics under logistic regression ({name}) pass through as few classes as possible",
        "in at least nine pairs of ten no path on a map of the latent space changes the most probable class less often",
        lambda share: share >= 0.9,
    )


FEWER = {name: _fewer(name) for name in MAPS}
AS_FEW_AS_POSSIBLE = {name: _as_few_as_possible(name) for name in MAPS}


@dataclass(frozen=True)
class SignTest:
    """How two paths compare over pairs, in the number of changes of class."""

    fewer: int
    """pairs in which the first path has fewer"""
    more: int
    """and in which it has more"""
    mean: float
    """the first path's number less the second's, on average"""
    interval: tuple[float, float]
    """95 %, of that mean over draws of the pairs"""

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> "SignTest":
        """Of the numbers of changes ``(n,)`` along two paths."""
        difference = (first - second).double()
        mean = float(difference.mean())
        half = float(summaries.half_width(difference))
        return cls(int((difference < 0).sum()), int((difference > 0).sum()), mean, (mean - half, mean + half))

    @property
    def p(self) -> float:
        """Two-sided, by the binomial distribution of the pairs that differ; 1 where none does."""
        differ = self.fewer + self.more
        return float(stats.binomtest(self.fewer, differ).pvalue) if differ else 1.0

    @property
    def share(self) -> float:
        """Of the pairs that differ, those in which the first path has fewer; a half where none differs."""
        differ = self.fewer + self.more
        return self.fewer / differ if differ else 0.5

    @property
    def words(self) -> str:
        """Counts, mean and p-value, for a reader."""
        low, high = self.interval
        return (
            f"fewer in {self.fewer} pairs and more in {self.more}, {self.mean:+.2f} per pair on average "
            f"({low:+.2f} to {high:+.2f}), p = {self.p:.1g}"
        )


@dataclass(frozen=True)
class FeatureMaps:
    """Straight lines, geodesics, and geodesics under logistic regression between pairs of test images."""

    g: Generator
    logistic: Logistic
    paths: dict[str, Tensor]
    """by the names of ``PATHS``: ``(n, STEPS + 1, 2)``, at equal steps of latent length"""
    error: dict[str, float]
    """by the names of ``PATHS`` but the first: the median over pairs of the estimated relative error of the length"""
    inside: dict[str, int]
    """by the same names, the number of paths that stay off the border of the grid"""
    grid: LatentGrid
    regions: Tensor
    """``(ny, nx)``, the most probable class on the grid, as an output of the regression"""

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.paths["line"])

    @cached_property
    def classes(self) -> dict[str, Tensor]:
        """By the names of ``PATHS``: ``(n, STEPS + 1)``, the most probable class along a path, as a label."""
        labels = torch.tensor(self.logistic.classes)
        return {name: labels[most_probable(self.g, self.logistic, points)] for name, points in self.paths.items()}

    @cached_property
    def changes(self) -> dict[str, Tensor]:
        """By the names of ``PATHS``: ``(n,)``, how often the most probable class changes along a path."""
        return {name: (classes.diff(dim=-1) != 0).sum(-1) for name, classes in self.classes.items()}

    @cached_property
    def fewest(self) -> Tensor:
        """``(n,)``, the changes of class that no path on the grid, and none of ours, can do without."""
        ends = self.paths["line"][:, [0, -1]].cpu()
        found = fewest_changes(self.regions, self.grid, ends[:, 0], ends[:, 1])
        return torch.stack([found, *self.changes.values()]).amin(0)

    def against(self, name: str, other: str) -> SignTest:
        """The number of changes along the paths ``name``, against those along ``other``."""
        return SignTest.of(self.changes[name], self.changes[other])

    def n_as_few_as_possible(self, name: str) -> int:
        """The number of pairs whose path ``name`` has as few changes as any on the grid."""
        return int((self.changes[name] == self.fewest).sum())

    @property
    def shown(self) -> int:
        """The pair in which the feature map saves most changes of class, against the line and then the geodesic."""
        ours = self.changes["probabilities"]
        line, geodesic = self.changes["line"] - ours, self.changes["geodesic"] - ours
        # both at once, so that the middle sequence is one too
        saved = torch.minimum(line, geodesic) * (1 + self.changes["line"].max()) + line
        return int(saved.argmax())

    @torch.no_grad()
    def strip(self, name: str, pair: int, n_images: int) -> tuple[Tensor, list[int]]:
        """Images ``(n_images, D)`` decoded at equal steps of latent length, and their most probable classes."""
        at = torch.linspace(0, STEPS, n_images).round().long()
        images = self.g.vae.mean(self.paths[name][pair][at.to(self.paths[name].device)])
        return images.cpu(), self.classes[name][pair][at].tolist()

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = [
            number("MB-3", "test accuracy of the logistic regression", 100 * self.logistic.test_accuracy, unit="%"),
        ]
        for name in PATHS:
            rows.append(
                number("MB-3", f"changes of class per pair, {LABELS[name]}", summaries.mean(self.changes[name]))
            )
        rows.append(number("MB-3", "fewest changes of class per pair", summaries.mean(self.fewest), note="on a grid"))
        for name, error in self.error.items():
            note = f"median over pairs; {self.inside[name]} of {self.n} paths stay off the grid's border"
            rows.append(
                number("MB-3", f"estimated error of the length, {LABELS[name]}", 100 * error, unit="%", note=note)
            )
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the paper's claims."""
        found = []
        for name in MAPS:
            line, curve = self.against(name, "line"), self.against(name, "geodesic")
            found.append(
                FEWER[name].decide(
                    f"against lines: {line.words}; against geodesics: {curve.words}",
                    line=line.share,
                    line_p=line.p,
                    geodesic=curve.share,
                    geodesic_p=curve.p,
                )
            )
            count = self.n_as_few_as_possible(name)
            low, high = (100 * bound for bound in summaries.share_interval(count, self.n))
            found.append(
                AS_FEW_AS_POSSIBLE[name].decide(
                    f"{count} of {self.n} pairs ({low:.0f} to {high:.0f} %)", share=count / self.n
                )
            )
        return found


LABELS = {
    "line": "straight line",
    "geodesic": "geodesic",
    "probabilities": "geodesic under probabilities",
    "logits": "geodesic under logits",
}
VGG_LABEL = "geodesic under VGG-19"


@torch.no_grad()
def most_probable(g: Generator, logistic: Logistic, z: Tensor) -> Tensor:
    """The output ``(...)`` of the regression that is largest at the decoded images of ``z (..., 2)``."""
    parts = [logistic.logits(g.vae.mean(part)).argmax(-1) for part in z.reshape(-1, z.shape[-1]).split(2**14)]
    return torch.cat(parts).reshape(z.shape[:-1]).cpu()


def fewest_changes(regions: Tensor, grid: LatentGrid, start: Tensor, end: Tensor) -> Tensor:
    """The fewest changes of class on any path over the grid, for pairs of points.

    Args:
        regions: ``(ny, nx)``, the class of each grid point.
        grid: its points.
        start: ``(n, 2)``; each point counts as the nearest of the grid.
        end: ``(n, 2)``.

    Returns:
        ``(n,)``, integers.
    """
    classes = regions.numpy()
    parts, n = np.zeros_like(classes), 0
    for label in np.unique(classes):
        own, count = ndimage.label(classes == label)
        parts[own > 0] = own[own > 0] + n - 1
        n += count
    beside = np.concatenate(
        [np.stack([parts[:-1].ravel(), parts[1:].ravel()]), np.stack([parts[:, :-1].ravel(), parts[:, 1:].ravel()])], 1
    )
    beside = np.unique(beside[:, beside[0] != beside[1]], axis=1)
    graph = coo_array((np.ones(beside.shape[1]), (beside[0], beside[1])), shape=(n, n)).tocsr()
    steps = shortest_path(graph, directed=False, unweighted=True)

    def part_of(points: Tensor) -> np.ndarray:
        x, y = (
            ((points[:, k] - axis[0]) / (axis[1] - axis[0])).round().long().clamp(0, len(axis) - 1)
            for k, axis in enumerate((grid.x.cpu(), grid.y.cpu()))
        )
        return parts[y.numpy(), x.numpy()]

    return torch.from_numpy(steps[part_of(start), part_of(end)].astype(np.int64))


def measure(
    g: Generator, logistic: Logistic, *, n_pairs: int, resolution: int, seed: int, settings: dict[str, Any]
) -> FeatureMaps:
    """Geodesics with and without logistic regression as a feature map (Eq. 4) between random pairs of test images.

    The claim is about shortest curves. Under a feature map that is nearly constant within a class there are many local
    minima, so these are shortest paths over a grid, smoothed, which are global up to an error with an estimate.

    Args:
        g: the generator.
        logistic: fitted to the same data.
        n_pairs: number of pairs.
        resolution: points of the class map along each axis.
        seed: of the pairs.
        settings: what else the result depends on, as ``Run.settings`` has it: the curves are kept under these.
    """
    first, second = generators.test_pairs(g.data, n_pairs, seed=seed)
    start, end = g.test_latents[first], g.test_latents[second]
    latents = torch.cat([g.train_latents, g.test_latents])
    grid = LatentGrid.around(latents, resolution=resolution, margin=_MARGIN)
    lower, upper = (torch.stack([axis[k] for axis in (grid.x, grid.y)]) for k in (0, -1))
    metrics = {
        "geodesic": g.metric,
        **{name: PullbackMetric(g.vae.mean, g.rbf, getattr(logistic, name)) for name in MAPS},
    }

    def shortest() -> dict[str, Any]:
        found = {}
        for name, metric in metrics.items():
            progress.say(f"{n_pairs} pairs, {LABELS[name]}")
            box = {"lower": lower, "upper": upper, "resolution": _CELLS[name], "reach": _REACH}
            each = global_distances(metric, start, end, **box, n_segments=_N_SEGMENTS)
            error = summaries.median(each.error / each.distance)
            found[name] = {"points": each.paths.cpu().tolist(), "error": error, "inside": int(each.inside.sum())}
        return found

    key = {**settings, "revision": _REVISION, "n_pairs": n_pairs, "seed": seed, "strength": logistic.strength}
    kept = measurements.kept("feature-maps", {**key, "cells": _CELLS, "resolution": resolution}, shortest)
    polygons = {"line": torch.stack([start, end], dim=1)}
    polygons |= {name: torch.tensor(each["points"]).to(start) for name, each in kept.items()}
    paths = {name: equal_steps(points, STEPS) for name, points in polygons.items()}
    error, inside = ({name: each[part] for name, each in kept.items()} for part in ("error", "inside"))
    return FeatureMaps(g, logistic, paths, error, inside, grid, most_probable(g, logistic, grid.points))


def equal_steps(points: Tensor, n: int) -> Tensor:
    """``n + 1`` points ``(B, n + 1, d)`` at equal steps of Euclidean length on polygons ``(B, N + 1, d)``."""
    lengths = points.diff(dim=1).norm(dim=-1).cumsum(-1)
    before = torch.cat([torch.zeros_like(lengths[:, :1]), lengths], dim=1)
    wanted = lengths[:, -1:] * torch.linspace(0, 1, n + 1, dtype=points.dtype, device=points.device)
    right = torch.searchsorted(before, wanted.contiguous()).clamp(1, points.shape[1] - 1)
    low, high = before.gather(1, right - 1), before.gather(1, right)
    share = ((wanted - low) / (high - low).clamp_min(torch.finfo(points.dtype).tiny)).clamp(0, 1).unsqueeze(-1)
    rows = torch.arange(len(points), device=points.device).unsqueeze(-1)
    return torch.lerp(points[rows, right - 1], points[rows, right], share)


@dataclass(frozen=True)
class Perceptual:
    """A geodesic under activations of VGG-19 (Eq. 3), between the ends of one pair, beside its line and geodesic."""

    strips: dict[str, Tensor]
    """images ``(n_images, D)`` by label"""
    missing: str
    """why there is no geodesic under VGG-19; empty where there is one"""
    notice: str = ""
    """what a reader must know of the weights"""
    improvement: float = math.nan
    """how much shorter than the line the curve is under VGG-19, in per cent"""

    @property
    def said(self) -> str:
        """What the last sequence shows, or why there is none, in words."""
        if self.missing:
            return f"The last sequence is not drawn: {self.missing}"
        line, curve = (self.strips[name] for name in (LABELS["line"], VGG_LABEL))
        apart = 255 * float((line - curve).double().square().mean().sqrt())
        return (
            f"Under VGG-19 the straight line can be shortened by {self.improvement:.1f} %, and the images along that "
            f"curve differ from those along the line by {apart:.1f} grey levels of 255 (root mean square)"
        )

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table; none without weights."""
        if self.missing:
            return []
        return [number("MB-VGG", "improvement of the pair under VGG-19", self.improvement, unit="%", note=self.notice)]


def perceptual(
    found: FeatureMaps, pair: int, weights: VGGWeights | None, *, n_images: int, **options: object
) -> Perceptual:
    """The sequences of one pair, the last under VGG-19 where there are weights.

    Args:
        found: the pairs.
        pair: which of them.
        weights: of VGG-19, or None where there are none.
        n_images: of each sequence.
        **options: of ``VGG19``.
    """
    strips = {LABELS[name]: found.strip(name, pair, n_images)[0] for name in ("line", "geodesic")}
    if weights is None:
        return Perceptual(strips, "no weights of VGG-19: set GEOLIB_VGG to the file (data/README.md)")
    network = weights.network(device=found.paths["line"].device, shape=found.g.data.shape, **options)
    start, end = found.paths["line"][pair][[0, -1]]
    progress.say("geodesic under VGG-19")
    # its kinks allow no fine tolerance, and each evaluation of the network takes a second on a CPU
    metric = PullbackMetric(found.g.vae.mean, features=network)
    curve = geodesic(metric, start, end, n_segments=16, init="line", rtol=1e-3, max_steps=50)
    t = torch.linspace(0, 1, 8 * n_images, dtype=start.dtype, device=start.device)
    with torch.no_grad():
        strips[VGG_LABEL] = found.g.vae.mean(equal_steps(curve.curve(t)[None], n_images - 1)[0]).cpu()
    return Perceptual(strips, "", weights.notice, 100 * float(curve.improvement))
