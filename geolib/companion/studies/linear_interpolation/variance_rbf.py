"""Notebook 02: how the decoder's own variance and the RBF variance behave away from the data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number

LARGE = 10  # times as large a standard deviation is one that tells data from no data

NETWORK = Claim(
    "DWB-4",
    "a variance network does not tell where there are no data",
    f"its mean standard deviation away from the data is less than {LARGE} times that at the data",
    lambda ratio: ratio < LARGE,
)
RBF = Claim(
    "DWB-5",
    "the RBF variance grows away from the data",
    f"its mean standard deviation away from the data is at least {LARGE} times that at the data",
    lambda ratio: ratio >= LARGE,
)


@dataclass(frozen=True)
class Variances:
    """The decoder's variance network and the RBF variance of one generator, on a grid that reaches beyond the data."""

    g: Generator
    grid: LatentGrid

    @cached_property
    def away(self) -> Tensor:
        """``(k, 2)``, the grid's points that are away from the data.

        They are farther from every training latent than one standard deviation of the data.
        """
        points = self.grid.points.reshape(-1, 2)
        nearest = torch.cat([torch.cdist(part, self.g.train_latents).amin(-1) for part in points.split(1024)])
        away = points[nearest > self.g.train_latents.std(0).max()]
        if len(away) == 0:
            raise ValueError("grid: none of its points is away from the data; widen it")
        return away

    @property
    def ratio_of_network(self) -> float:
        """The network's mean sigma away from the data over that at the test data."""
        return self.ratio(self.g.vae.std)

    @property
    def ratio_of_rbf(self) -> float:
        """The RBF's mean sigma away from the data over that at the test data."""
        return self.ratio(self.g.rbf)

    @property
    def share_as_sure(self) -> float:
        """In per cent, the area away from the data where the network's summed sigma is below its median at the data."""
        with torch.no_grad():
            at_data, away = (self.g.vae.std(points).sum(-1) for points in (self.g.test_latents, self.away))
        return 100 * summaries.share(away < summaries.median(at_data))

    @torch.no_grad()
    def ratio(self, std: Callable[[Tensor], Tensor]) -> float:
        """The mean of a standard deviation away from the data over that at the test data."""
        return float(std(self.away).mean()) / float(std(self.g.test_latents).mean())

    @property
    def which_tells(self) -> str:
        """Which of the two tells data from no data, in words."""
        network, rbf = (ratio >= LARGE for ratio in (self.ratio_of_network, self.ratio_of_rbf))
        if network == rbf:
            return f"{'Both tell' if rbf else 'Neither of them tells'} where there are no data"
        return "Only the {} tells where there are no data".format("RBF" if rbf else "network")

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        return [
            number("MB-1", "RBF: mean sigma away from the data over mean sigma at the data", self.ratio_of_rbf),
            number("MB-1", "variance network: the same ratio", self.ratio_of_network),
            number(
                "DWB-4",
                "area away from the data where the network is as sure as at half of the data",
                self.share_as_sure,
                unit="%",
                note="its summed sigma is below the median at the test data",
            ),
        ]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the papers' claims."""
        network, rbf = self.ratio_of_network, self.ratio_of_rbf
        return [
            NETWORK.decide(f"{network:.1f} times", ratio=network),
            RBF.decide(f"{rbf:.0f} times", ratio=rbf),
        ]


def measure(g: Generator, *, resolution: int) -> Variances:
    """Both variances on a grid that is wide enough to leave the data."""
    return Variances(g, LatentGrid.around(g.test_latents, resolution=resolution, margin=0.4))
