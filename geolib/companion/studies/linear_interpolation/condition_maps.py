"""Notebook 03: the condition number of the metric and the directions of its eigenvectors."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from geolib import condition_number, extremal_directions
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import spread, summaries
from geolib.companion.studies.evidence import Claim, number

_PRIOR = 10_000  # draws

HIGH = 10  # the condition number from which on we call a metric highly anisotropic

ANISOTROPIC = Claim(
    "MB-1",
    "the metric is highly anisotropic",
    f"the median condition number at the encoded test data is at least {HIGH}",
    lambda median: median >= HIGH,
)
DECADES = Claim(
    "MB-1",
    "the condition number spans decades",
    "it spans at least 2 decades at the encoded test data, from its 1st to its 99th percentile",
    lambda decades: decades >= 2,
)
VARIED = Claim(
    "MB-1",
    "the maximal eigenvectors are not homogeneous: their direction varies",
    "their alignment at the encoded test data is below 0.5 (1: all parallel, 0: evenly spread)",
    lambda alignment: alignment < 0.5,
)


@dataclass(frozen=True)
class Place:
    """The metric's eigenvalues and eigenvectors in one part of the latent plane."""

    condition: Tensor
    """``(...)``"""
    v_min: Tensor
    """``(..., 2)``, unit eigenvectors of the smallest eigenvalue"""
    v_max: Tensor
    """``(..., 2)``, unit eigenvectors of the largest eigenvalue"""

    @classmethod
    def of(cls, g: Generator, points: Tensor) -> "Place":
        """The metric of ``g`` at ``points (..., 2)``."""
        M = g.metric(points)
        return cls(condition_number(M), *extremal_directions(M))

    @property
    def median(self) -> float:
        """The median condition number."""
        return summaries.median(self.condition)

    @property
    def decades(self) -> float:
        """How many powers of ten the condition number spans, from its 1st to its 99th percentile."""
        return summaries.decades(self.condition)

    @property
    def alignment(self) -> float:
        """How far the maximal eigenvectors agree: 1 all parallel, 0 evenly spread."""
        return summaries.alignment(self.v_max)


@dataclass(frozen=True)
class Conditions:
    """The metric on a map, at the encoded test data, and at draws from the prior."""

    g: Generator
    """in double precision"""
    grid: LatentGrid
    map: Place
    data: Place
    prior: Place
    retrained: list[Place] = field(default_factory=list)
    """at the test data of models trained from other seeds"""

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = []
        for place, where in ((self.data, "at the test data"), (self.prior, "over the prior"), (self.map, "on the map")):
            rows += [
                number("MB-1", f"median condition number {where}", place.median),
                number(
                    "MB-1",
                    f"decades spanned by the condition number {where}",
                    place.decades,
                    note="1st to 99th percentile",
                ),
                number(
                    "MB-1",
                    f"alignment of the maximal eigenvectors {where}",
                    place.alignment,
                    note="1 would be a homogeneous field, 0 an even spread of directions",
                ),
            ]
        if self.retrained:
            models = (self.data, *self.retrained)
            conditions, directions = [each.condition for each in models], [each.v_max for each in models]
            for quantity, samples, statistic in (
                ("median condition number at the test data", conditions, summaries.median),
                ("decades spanned by the condition number at the test data", conditions, summaries.decades),
                ("alignment of the maximal eigenvectors at the test data", directions, summaries.alignment),
            ):
                rows += spread.of_statistic(samples, statistic).rows(quantity)
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the paper's claims, at the data: the map's border is where there is nothing to decode."""
        median, decades, alignment = self.data.median, self.data.decades, self.data.alignment
        return [
            ANISOTROPIC.decide(f"median {median:.1f}", median=median),
            DECADES.decide(f"{decades:.1f} decades", decades=decades),
            VARIED.decide(f"alignment {alignment:.2f}", alignment=alignment),
        ]

    @property
    def ratio_of_rates(self) -> float:
        """The largest rate of change of the output over the smallest, at the median test image."""
        return self.data.median**0.5

    @property
    def beyond_the_data(self) -> str:
        """How the map compares with the data, in words."""
        factor = self.map.median / self.data.median
        if factor >= 2:
            return f"over the whole map the median is {factor:.0f} times as large: the surroundings are stretched most"
        return f"over the whole map the median is {'about the same' if factor > 0.5 else 'smaller'}"

    @property
    def anisotropy(self) -> str:
        """Whether the metric is highly anisotropic at the data, in words."""
        return "is" if ANISOTROPIC.holds(median=self.data.median) else "is not"

    @property
    def homogeneity(self) -> str:
        """What the alignment at the data says, in words."""
        varied = VARIED.holds(alignment=self.data.alignment)
        return "have no common direction" if varied else "vary around one main direction"


def measure(g: Generator, others: list[Generator], *, resolution: int, seed: int) -> Conditions:
    """The metric's condition number and eigenvectors, in double precision.

    Args:
        g: the generator.
        others: the same recipe trained from other seeds, measured at their test data alone.
        resolution: points of the map along each axis.
        seed: of the draws from the prior.
    """
    exact = generators.in_double(g)
    grid = LatentGrid.around(exact.test_latents, resolution=resolution)
    draws = torch.randn(_PRIOR, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    places = (grid.points, exact.test_latents, draws.to(exact.test_latents))
    retrained = [Place.of(each, each.test_latents) for each in map(generators.in_double, others)]
    return Conditions(exact, grid, *(Place.of(exact, points) for points in places), retrained)
