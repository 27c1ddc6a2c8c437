"""Notebook 04: how far straight lines are from geodesics, by Algorithm 1 of Michelis & Becker 2021."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import magnification_factor, relative_improvement
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import spread, summaries
from geolib.companion.studies.evidence import Claim, Verdict, number
from geolib.evaluation import RelativeImprovement

PAPER_MEAN = 10.20  # per cent, of the paper's VAE
SPARSE = 1.5  # times the others' distance to the data, from which on we say that data are sparse

MEAN = Claim(
    "MB-2",
    "straight lines can be shortened by 10.20 % on average",
    "the paper's mean lies within our 95 % interval over draws",
    lambda low, high: low <= PAPER_MEAN <= high,
    paper=f"{PAPER_MEAN:.2f} %",
    otherwise=Verdict.NOT_REPRODUCED,
)
SIGNIFICANT = Claim(
    "MB-2",
    "lines deviate from geodesics by enough to be taken into consideration",
    "at least half of the lines can be shortened by 1 % and more",
    lambda median: median >= 1,
)
VARIED = Claim(
    "MB-4",
    "the improvement differs vastly from place to place",
    "the standard deviation of the improvements is at least as large as their mean",
    lambda mean, std: std >= mean,
)


@dataclass(frozen=True)
class MonteCarlo:
    """Algorithm 1 on one generator, and its mean on retrained ones."""

    g: Generator
    mc: RelativeImprovement
    """of the generator itself"""
    retrained: list[RelativeImprovement]
    """the same on generators trained from other seeds"""

    @property
    def means(self) -> list[float]:
        """The mean improvement of every seed, in per cent; first that of the generator itself."""
        return [100 * mc.mean for mc in (self.mc, *self.retrained)]

    @property
    def median(self) -> float:
        """The median improvement, in per cent."""
        return 100 * summaries.median(self.mc.improvement)

    @property
    def _top_tenth(self) -> Tensor:
        """``(n,)``, whether a line is among the tenth that can be shortened most."""
        improvement = self.mc.improvement
        return improvement >= improvement.double().quantile(0.9).to(improvement)

    @property
    def share_of_improvement_from_the_top_tenth(self) -> float:
        """In per cent of the sum of all improvements."""
        improvement = self.mc.improvement.double()
        return 100 * float(improvement[self._top_tenth].sum() / improvement.sum())

    @property
    def _middles(self) -> Tensor:
        return (self.mc.start + self.mc.end) / 2

    @property
    def ratio_of_magnification(self) -> float:
        """Median magnification factor at the middles of the tenth that can be shortened most, over that of the rest."""
        volume = magnification_factor(self.g.metric(self._middles))
        return summaries.median(volume[self._top_tenth]) / summaries.median(volume[~self._top_tenth])

    @property
    def ratio_of_distance(self) -> float:
        """The same for the distance to the nearest encoded training image."""
        distance = torch.cdist(self._middles, self.g.train_latents).amin(-1)
        return summaries.median(distance[self._top_tenth]) / summaries.median(distance[~self._top_tenth])

    @property
    def place(self) -> str:
        """Where the tenth that can be shortened most lies, in words."""
        ratio = self.ratio_of_distance
        words = f"{ratio:.1f} times the distance of the others from the nearest encoded image"
        if ratio >= SPARSE:
            return f"where data are sparse, at {words}"
        if ratio <= 1 / SPARSE:
            return f"where data are dense, at {words}"
        return f"where data are about as dense as elsewhere, at {words}"

    @property
    def spread_of_the_means(self) -> str:
        """How far the means of several trained models lie apart, as a sentence."""
        if not self.retrained:
            return "One trained model does not show how much the mean depends on the training."
        low, high = min(self.means), max(self.means)
        return f"Over {len(self.means)} trained models the mean lies between {low:.2f} and {high:.2f} %."

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        mc = self.mc
        low, high = (100 * bound for bound in mc.interval)
        rows = [
            number(
                "MB-2",
                "mean relative improvement",
                100 * mc.mean,
                unit="%",
                paper=PAPER_MEAN,
                note=f"95 % interval over draws {low:.2f} to {high:.2f} %; the paper's VAE is another one",
            ),
            number("MB-2", "standard deviation of the improvements", 100 * mc.std, unit="%"),
            number("MB-2", "largest improvement", 100 * float(mc.improvement.max()), unit="%"),
            number(
                "MB-2",
                "curves whose solver converged",
                100 * summaries.share(mc.geodesic.converged),
                unit="%",
                note="the others are no longer than their lines, and reported as not converged",
            ),
            number("MB-4", "median relative improvement", self.median, unit="%"),
        ]
        if self.retrained:
            seeds = f"{len(self.means)} seeds of training"
            rows += [
                number("B-3", "smallest mean improvement over retrained models", min(self.means), unit="%", note=seeds),
                number("B-3", "largest mean improvement over retrained models", max(self.means), unit="%", note=seeds),
            ]
            improvements = [100 * each.improvement for each in (mc, *self.retrained)]
            rows += spread.of_means(improvements).rows("mean improvement", unit="%")
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the paper's claims."""
        mc = self.mc
        mean, std = 100 * mc.mean, 100 * mc.std
        low, high = (100 * bound for bound in mc.interval)
        median = self.median
        return [
            MEAN.decide(f"{mean:.2f} % ({low:.2f} to {high:.2f} %)", low=low, high=high),
            SIGNIFICANT.decide(f"median {median:.2f} %", median=median),
            VARIED.decide(f"{std:.2f} %, mean {mean:.2f} %", mean=mean, std=std),
        ]

    def volume(self, *, resolution: int) -> tuple[LatentGrid, Tensor]:
        """A grid that covers data and lines, and the logarithm of the magnification factor on it."""
        covered = torch.cat([self.g.test_latents, self.mc.start])
        grid = LatentGrid.around(covered, resolution=resolution, margin=0.05)
        return grid, magnification_factor(self.g.metric(grid.points)).log()


def measure(
    g: Generator,
    mc: RelativeImprovement,
    others: list[Generator],
    *,
    n_samples: int,
    step_size: float,
    seed: int,
) -> MonteCarlo:
    """Algorithm 1 with the same draws on retrained generators, beside its result on the first one.

    Args:
        g: the generator.
        mc: ``geolib.relative_improvement`` of its metric.
        others: the same recipe trained from other seeds.
        n_samples: number of lines, as for ``mc``.
        step_size: their length in the latent space, as for ``mc``.
        seed: of the draws, as for ``mc``.
    """
    settings = {"n_samples": n_samples, "step_size": step_size, "seed": seed}
    return MonteCarlo(g, mc, [relative_improvement(other.metric, **settings) for other in others])
