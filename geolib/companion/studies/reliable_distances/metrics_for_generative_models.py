"""Notebook 13: importance-weighted autoencoders of a pendulum, an arm and binarised digits (Chen et al. 2018)."""

import copy
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from geolib import PullbackMetric, curve_length, geodesic, magnification_factor
from geolib.companion.cache import progress
from geolib.companion.data import pendulum
from geolib.companion.models import generators
from geolib.companion.models.features import bernoulli_angles
from geolib.companion.models.generators import MeanGenerator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.models.networks.iwae import bound
from geolib.companion.studies import evenness, magnification, summaries
from geolib.companion.studies.evenness import Evenness
from geolib.companion.studies.evidence import Claim, number
from geolib.metric import smoothed
from geolib.paths.result import Geodesic

PENDULUM, ARM, DIGITS = "pendulum", "robot arm", "binarised digits"
KEYS = {PENDULUM: "CH-1", DIGITS: "CH-3", ARM: "CH-4"}
RECIPES = {PENDULUM: "iwae_pendulum", ARM: "iwae_arm", DIGITS: "iwae_digits"}
STRENGTHS = (0.0, 0.1, 1.0, 10.0)
"""lambda of the smoothing in units of the squared median of the metric's smaller singular value at the test latents: 1
halves a singular value of that size; 0 is without smoothing"""
SAMPLES = (1, 5, 50)
"""K, at which the bound is compared on held-out data"""
REFLECTS = 0.9
"""Spearman's rank correlation with the truth, from which on we say that a distance reflects it"""
_MARGIN = 0.2
_N_RESAMPLES = 1000
# From the line, as on the slides. From other starts there are shorter curves, far outside of the data, where a decoder
# without a variance hardly changes.
_JOINING = {"init": "line", "max_steps": 150}
# a metric of nearly one rank less has curves that become shorter for ever
_SMOOTHING = {"rtol": 1e-3, "max_steps": 60}
_SMOOTHED = 20  # pairs, as such metrics cost more
_BOUNDED = 200  # test images of which the bound is taken

SIMILARITY = Claim(
    "CH-1",
    "pendulum: distances between latents do not reflect the true similarity, geodesic distances do",
    "the rank correlation of geodesic distances with the angle between two pendulums is at least "
    f"{REFLECTS:g}, and the 95 % bootstrap interval of how much higher it is than that of Euclidean distances lies "
    "above 0",
    lambda geodesic, low: geodesic >= REFLECTS and low > 0,
)
EVENLY = {name: evenness.evenly(key, name) for name, key in KEYS.items()}
LOW = {name: magnification.follow_low(key, name) for name, key in KEYS.items()}
SMOOTHED = Claim(
    "CH-2",
    "pendulum: geodesics of the smoothed metric change the output evenly, too",
    f"with every lambda, the mean coefficient of variation of {evenness.STEPS} steps of the output along them, with "
    f"its whole 95 % interval, is below {evenness.EVEN}",
    lambda high: high < evenness.EVEN,
)


@dataclass(frozen=True)
class Smoothing:
    """Geodesics of a smoothed metric between the same pairs."""

    strength: float
    """one of ``STRENGTHS``"""
    variation: Tensor
    """``(n,)``, coefficient of variation of the output's steps"""
    longer: Tensor
    """``(n,)``, length under the metric itself over that of its own geodesic, less 1"""
    spread: float
    """decades that sqrt det of the smoothed metric spans at the test latents"""
    n_converged: int


@dataclass(frozen=True)
class DataSet:
    """One model's latent space with its metric, geodesics and straight lines."""

    name: str
    """one of ``KEYS``"""
    g: MeanGenerator
    grid: LatentGrid
    log_volume: Tensor
    """``(ny, nx)``, log sqrt det M"""
    log_volume_at_data: Tensor
    """``(m,)``, at the test latents"""
    curves: Evenness
    length: Tensor
    """``(n,)``, of the geodesics"""
    lower: Tensor
    """``(n,)``, mean of log sqrt det M along the geodesic less that along the line, by latent length"""
    n_converged: int
    leaving: Tensor
    """``(n,)``, whether the geodesic leaves the map"""
    smoothings: list[Smoothing]
    """of the first pairs"""
    bounds: dict[int, float]
    """mean bound in nats of held-out data, by K"""

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.length)

    @property
    def shown(self) -> int:
        """The pair whose line is least even, where there is one of those whose geodesics stay on the map."""
        variation = self.curves.line_variation
        return int(
            torch.where(self.leaving, -1.0, variation).argmax() if not self.leaving.all() else variation.argmax()
        )

    @torch.no_grad()
    def outputs(self, name: str, n: int) -> Tensor:
        """The decoder's output ``(n, D)`` at equal steps of the parameter of the shown pair's "line" or "geodesic"."""
        at = torch.linspace(0, evenness.STEPS, n).round().long()
        return self.g.model.mean(getattr(self.curves, name)[self.shown][at].to(self.g.test_latents)).cpu()

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        key = KEYS[self.name]
        training = f"{len(self.g.data.train_images):,} training images"
        return [
            *self.curves.numbers(key, self.name),
            magnification.row(key, self.name, self.lower),
            number(key, f"{self.name}: geodesics that converged", self.n_converged, note=f"of {self.n}"),
            number(key, f"{self.name}: geodesics that leave the map", int(self.leaving.sum()), note=f"of {self.n}"),
            *(
                number(key, f"{self.name}: bound on held-out data, K = {K}", value, unit="nats", note=training)
                for K, value in self.bounds.items()
            ),
        ]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on what the slides show on every data set."""
        return [
            self.curves.decide(EVENLY[self.name]),
            magnification.decide(LOW[self.name], self.lower, trusted=self.n_converged >= self.n / 2),
        ]

    @property
    def words(self) -> str:
        """How evenly the output changes, in words."""
        line, curve = (self.curves.words(name) for name in ("line", "geodesic"))
        return (
            f"The coefficient of variation of the output's steps is {line} along straight lines and {curve} along "
            f"geodesics (mean of {self.n} pairs and 95 % interval)."
        )

    @property
    def volume_words(self) -> str:
        """Where geodesics run, in words."""
        return (
            f"{magnification.words(self.lower)} "
            f"{int(self.leaving.sum())} of {self.n} geodesics leave the map, where the decoder hardly changes."
        )


@dataclass(frozen=True)
class Distances:
    """Distances between pairs of pendulums, beside the angle between them."""

    angle: Tensor
    """``(n,)``, radians"""
    geodesic: Tensor
    """``(n,)``"""
    euclidean: Tensor
    """``(n,)``"""
    _random: int = field(default=0, repr=False)
    """seed of the bootstrap"""

    def correlation(self, name: str) -> float:
        """Spearman's rank correlation of ``"geodesic"`` or ``"euclidean"`` distances with the angle."""
        return summaries.rank_correlation(self._columns(name))

    def _columns(self, name: str) -> Tensor:
        return torch.stack([getattr(self, name).double(), self.angle.double()], dim=-1)

    @cached_property
    def resampled(self) -> dict[str, Tensor]:
        """The correlations of both, and their difference, over bootstrap samples of the pairs."""
        random = torch.Generator().manual_seed(self._random)
        rows = torch.randint(len(self.angle), (_N_RESAMPLES, len(self.angle)), generator=random)
        found = {
            name: torch.tensor([summaries.rank_correlation(self._columns(name)[each]) for each in rows])
            for name in ("geodesic", "euclidean")
        }
        return found | {"difference": found["geodesic"] - found["euclidean"]}

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % bootstrap interval; of ``"difference"``, too."""
        low, high = self.resampled[name].double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return low, high

    def words(self, name: str) -> str:
        """Correlation and interval, in words."""
        low, high = self.interval(name)
        return f"{self.correlation(name):.3f} ({low:.3f} to {high:.3f})"

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        note = f"95 % bootstrap interval of {len(self.angle)} pairs"
        return [
            number("CH-1", f"pendulum: rank correlation of {name} distance with the angle", self.words(name), note=note)
            for name in ("geodesic", "euclidean")
        ]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdict on the slides' conclusion."""
        told = f"geodesic {self.words('geodesic')}, Euclidean {self.words('euclidean')}"
        low, _ = self.interval("difference")
        return [SIMILARITY.decide(told, geodesic=self.correlation("geodesic"), low=low)]


@dataclass(frozen=True)
class FisherRao:
    """The metric of Bernoulli pixels on the digits, beside the Euclidean one."""

    log_volume: Tensor
    """``(ny, nx)``, log sqrt det of the Fisher-Rao metric"""
    log_volume_at_data: Tensor
    """``(m,)``"""
    geodesic: Tensor
    """``(n, STEPS + 1, 2)``, geodesics of the Fisher-Rao metric"""
    longer: Tensor
    """``(n,)``, Euclidean length of these over that of Euclidean geodesics, less 1"""
    agreement: float
    """Spearman's rank correlation of both magnification factors at the test latents"""
    lengths_agreement: float
    """and of both metrics' geodesic distances over the pairs"""
    n_converged: int

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        pairs = f"{len(self.longer)} pairs"
        return [
            number(
                "CH-3", "rank correlation of Euclidean and Fisher-Rao sqrt det M at the test latents", self.agreement
            ),
            number(
                "CH-3", "rank correlation of Euclidean and Fisher-Rao distances", self.lengths_agreement, note=pairs
            ),
            number(
                "CH-3",
                "Fisher-Rao geodesics: Euclidean length beyond that of Euclidean geodesics, median",
                100 * summaries.median(self.longer),
                unit="%",
                note=pairs,
            ),
            number("CH-3", "Fisher-Rao geodesics that converged", self.n_converged, note=f"of {pairs}"),
        ]

    @property
    def words(self) -> str:
        """How the two metrics compare, in words."""
        return (
            f"Over the test digits the two magnification factors have a rank correlation of {self.agreement:.3f}, the "
            f"distances one of {self.lengths_agreement:.3f}. Fisher-Rao geodesics are in the median "
            f"{100 * summaries.median(self.longer):.2f} % longer than Euclidean ones, by Euclidean length. In both "
            "metrics pixels that are surely black or white count for nothing."
        )


@dataclass(frozen=True)
class Chen:
    """All data sets, the pendulum's distances, and the digits' second metric."""

    sets: dict[str, DataSet]
    """by name"""
    distances: Distances
    fisher_rao: FisherRao

    @property
    def evenness_words(self) -> str:
        """How many pairs have an even line and an even geodesic, in words."""
        told = []
        for name, one in self.sets.items():
            kinds = (one.curves.line_variation, one.curves.geodesic_variation)
            line, curve = (int((values < evenness.EVEN).sum()) for values in kinds)
            told.append(f"of the {name} {line} of {one.n} lines and {curve} geodesics")
        return f"Even, with a coefficient of variation below {evenness.EVEN:g}, are {', '.join(told)}."

    @property
    def smoothing_numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table on the smoothing."""
        rows = []
        for name, one in self.sets.items():
            for each in one.smoothings:
                label = f"{name}, lambda {each.strength:g}"
                mean, half = summaries.mean(each.variation), float(summaries.half_width(each.variation))
                note = f"half its 95 % interval {half:.3f}, {each.n_converged} of {len(each.longer)} converged"
                rows += [
                    number("CH-2", f"{label}: coefficient of variation of the output's steps", mean, note=note),
                    number("CH-2", f"{label}: longer than geodesics", 100 * summaries.mean(each.longer), unit="%"),
                    number("CH-2", f"{label}: decades that sqrt det G spans at the test latents", each.spread),
                ]
        return rows

    @property
    def smoothing_claims(self) -> list[dict[str, Any]]:
        """The verdict on the smoothing: none where fewer than half of the curves are geodesics."""
        smoothings = [each for each in self.sets[PENDULUM].smoothings if each.strength]
        means = [summaries.mean(each.variation) for each in smoothings]
        # a NaN is not lost in a maximum of tensors
        high = float(
            torch.stack(
                [m + summaries.half_width(each.variation) for m, each in zip(means, smoothings, strict=True)]
            ).max()
        )
        fewest = min(each.n_converged for each in smoothings)
        n = len(smoothings[0].variation)
        told = (
            f"{min(means):.3f} to {max(means):.3f}, upper ends of the intervals to {high:.3f}; at least {fewest} of "
            f"{n} curves converged"
        )
        return [SMOOTHED.decide(told, high=high if fewest >= n / 2 else math.nan)]

    @property
    def smoothing_words(self) -> str:
        """What the strongest smoothing does, in words."""
        told = []
        for name, one in self.sets.items():
            last = one.smoothings[-1]
            told.append(
                f"on the {name} curves become {100 * summaries.mean(last.longer):.1f} % longer, and the coefficient of "
                f"variation goes from {summaries.mean(one.smoothings[0].variation):.3f} to "
                f"{summaries.mean(last.variation):.3f}"
            )
        first, last = self.sets[PENDULUM].smoothings[0], self.sets[PENDULUM].smoothings[-1]
        return (
            f"With the largest lambda, {'; '.join(told)}. The magnification factor does not become flatter: over the "
            f"encoded pendulums it spans {first.spread:.2f} decades without smoothing and {last.spread:.2f} with it. "
            "Nearly singular metrics are hard for a solver: "
            + ", ".join(f"{one.smoothings[-1].n_converged} of {len(last.longer)}" for one in self.sets.values())
            + " curves converged."
        )


def measure(models: dict[str, MeanGenerator], *, n_pairs: int, resolution: int, seed: int) -> Chen:
    """The geometry of all three models.

    Args:
        models: IWAEs by ``RECIPES``' names.
        n_pairs: pairs of test images that are joined, fewer where there are fewer images.
        resolution: points of a map along each axis.
        seed: of the pairs and draws.
    """
    sets, distances, fisher_rao = {}, None, None
    for name, g in models.items():
        n = min(n_pairs, len(g.data.test_images) // 2)
        first, second = generators.test_pairs(g.data, n, seed=seed)
        start, end = (g.test_latents[chosen].double() for chosen in (first, second))
        sets[name] = _data_set(name, g, start, end, resolution=resolution, seed=seed)
        if name == PENDULUM:
            angles = pendulum.test_angles(g.data)
            apart = pendulum.apart(angles[first], angles[second])
            distances = Distances(apart, sets[name].length, (start - end).norm(dim=-1).cpu(), seed)
        if name == DIGITS:
            fisher_rao = _fisher_rao(sets[name], start, end)
    return Chen(sets, distances, fisher_rao)


def _data_set(name: str, g: MeanGenerator, start: Tensor, end: Tensor, *, resolution: int, seed: int) -> DataSet:
    progress.say(f"{name}: map and geodesics")
    metric = generators.mean_in_double(g)
    grid = LatentGrid.around(g.test_latents.double(), resolution=resolution, margin=_MARGIN)
    curves = geodesic(metric, start, end, **_JOINING)
    found = evenness.measure(metric.mean, curves)
    at_data = metric(g.test_latents.double())
    return DataSet(
        name,
        g,
        grid,
        magnification_factor(metric(grid.points)).log().cpu(),
        magnification_factor(at_data).log().cpu(),
        found,
        curves.length.cpu(),
        magnification.lower(metric, found),
        int(curves.converged.sum()),
        _outside(found.geodesic, grid).cpu(),
        _smoothings(name, metric, curves, at_data),
        _bounds(g, seed),
    )


def _outside(points: Tensor, grid: LatentGrid) -> Tensor:
    """Which curves ``(n, N + 1, 2)`` leave the grid's square ``(n,)``."""
    low, high = (torch.stack([axis[k] for axis in (grid.x, grid.y)]) for k in (0, -1))
    return ((points < low) | (points > high)).any(-1).any(-1)


def _finely(curves: Geodesic) -> Tensor:
    """Points ``(n, 8 STEPS + 1, d)`` at equal steps of the parameter, by which another metric measures."""
    t = torch.linspace(0, 1, 8 * evenness.STEPS + 1).to(curves.points)
    return curves.curve(t)


def _smoothings(name: str, metric: PullbackMetric, curves: Geodesic, at_data: Tensor) -> list[Smoothing]:
    """Geodesics of the metric with singular values s^3 / (s^2 + lambda), measured by the metric itself.

    The solver starts from geodesics of the metric, so that each is compared with its own.
    """
    unit = torch.linalg.eigvalsh(at_data)[:, 0].median().square()
    points, fine = curves.points[:_SMOOTHED], _finely(curves)[:_SMOOTHED]
    length = curve_length(metric, fine)
    found = []
    for strength in STRENGTHS:
        changed, converged = at_data, curves.converged[:_SMOOTHED]
        if strength > 0:
            progress.say(f"{name}: smoothing, lambda {strength:g}")
            lam = float(strength * unit)
            each = geodesic(
                lambda z, lam=lam: smoothed(metric(z), lam), points[:, 0], points[:, -1], init=points, **_SMOOTHING
            )
            fine, changed, converged = _finely(each), smoothed(at_data, lam), each.converged
        found.append(
            Smoothing(
                strength,
                evenness.variation(metric.mean, fine[:, ::8]).cpu(),
                (curve_length(metric, fine) / length - 1).cpu(),
                summaries.decades(magnification_factor(changed)),
                int(converged.sum()),
            )
        )
    return found


@torch.no_grad()
def _bounds(g: MeanGenerator, seed: int) -> dict[int, float]:
    device = g.test_latents.device
    x = g.data.test_images[:_BOUNDED].to(device)
    random = torch.Generator().manual_seed(seed)
    found = {}
    for K in SAMPLES:
        noise = torch.randn(len(x), K, g.model.config.latent_dim, generator=random).to(device)
        found[K] = summaries.mean(
            torch.cat([bound(g.model, a, b) for a, b in zip(x.split(100), noise.split(100), strict=True)])
        )
    return found


def _fisher_rao(digits: DataSet, start: Tensor, end: Tensor) -> FisherRao:
    progress.say("Fisher-Rao metric")
    g = digits.g
    metric = PullbackMetric(copy.deepcopy(g.model.logits).double(), features=bernoulli_angles)
    curves = geodesic(metric, start, end, **_JOINING)
    fine = _finely(curves)
    euclidean = generators.mean_in_double(g)
    at_data = magnification_factor(metric(g.test_latents.double())).log().cpu()
    return FisherRao(
        magnification_factor(metric(digits.grid.points)).log().cpu(),
        at_data,
        fine[:, ::8].cpu(),
        (curve_length(euclidean, fine).cpu() / digits.length - 1),
        *(
            summaries.rank_correlation(torch.stack(both, dim=-1))
            for both in ((at_data, digits.log_volume_at_data), (curves.length.cpu(), digits.length))
        ),
        int(curves.converged.sum()),
    )
