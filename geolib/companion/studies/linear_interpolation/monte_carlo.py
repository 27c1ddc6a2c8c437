"""Notebook 04: how far straight lines are from geodesics, by Algorithm 1 of Michelis & Becker 2021."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import magnification_factor, relative_improvement
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, Verdict, number
from geolib.evaluation import RelativeImprovement

PAPER_MEAN = 10.20  # per cent, of the paper's VAE

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
    def ratio_of_magnification(self) -> float:
        """Median magnification factor at the middles of the tenth that can be shortened most, over that of the rest."""
        middle = (self.mc.start + self.mc.end) / 2
        volume = magnification_factor(self.g.metric(middle))
        return summaries.median(volume[self._top_tenth]) / summaries.median(volume[~self._top_tenth])

    @property
    def place(self) -> str:
        """Where these lines lie, in words, by their distance to the nearest encoded training image."""
        middle = (self.mc.start + self.mc.end) / 2
        distance = torch.cdist(middle, self.g.train_latents).amin(-1)
        far, near = summaries.median(distance[self._top_tenth]), summaries.median(distance[~self._top_tenth])
        if far > 2 * near:
            return f"they lie {far / near:.1f} times as far from the nearest encoded image, at the border of the data"
        return "they lie about as near to encoded images as the others"

    @property
    def verdict_on_the_mean(self) -> str:
        """The verdict on the paper's mean."""
        return self.claims[0]["verdict"]

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


def measure(g: Generator, others: list[Generator], *, n_samples: int, step_size: float, seed: int) -> MonteCarlo:
    """Algorithm 1 with the same draws on a generator and on retrained ones."""
    settings = {"n_samples": n_samples, "step_size": step_size, "seed": seed}
    return MonteCarlo(
        g, relative_improvement(g.metric, **settings), [relative_improvement(o.metric, **settings) for o in others]
    )
