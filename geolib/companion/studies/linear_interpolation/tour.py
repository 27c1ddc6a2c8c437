"""Notebook 00: one geodesic on a digits VAE, and what lies along it and its straight line."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import Geodesic, geodesic, magnification_factor
from geolib.companion.models.generators import Generator, class_pair
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies.evidence import number


@dataclass(frozen=True)
class Tour:
    """A geodesic between two encoded test images, and its straight line."""

    g: Generator
    curve: Geodesic
    """batch shape ``()``"""

    @property
    def improvement(self) -> float:
        """How much shorter the curve is than the straight line, in per cent."""
        return 100 * float(self.curve.improvement)

    @property
    def deviation(self) -> float:
        """The largest distance of the geodesic from the straight line in latent space, in per cent of the line."""
        along = self.curve.points[-1] - self.curve.points[0]
        offset = self.curve.points - self.curve.points[0]
        across = along[0] * offset[:, 1] - along[1] * offset[:, 0]
        return 100 * float(across.abs().max() / along.square().sum())

    @property
    def certificate(self) -> str:
        """Whether the curve is a geodesic to the solver's tolerance, in words."""
        if bool(self.curve.converged):
            return "the solver converged"
        return "the solver did not converge, so this is the shortest curve that it met"

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        return [
            number("tour", "curve shorter than the line by", self.improvement, unit="%"),
            number("tour", "largest distance of the curve from the line, of the line", self.deviation, unit="%"),
        ]

    def along(self, *, n_points: int) -> tuple[Tensor, Tensor]:
        """Points ``(n_points, 2)`` on the straight line and on the geodesic, at equal steps of the parameter."""
        t = torch.linspace(0, 1, n_points, dtype=self.curve.points.dtype, device=self.curve.points.device)
        start, end = self.curve.points[0], self.curve.points[-1]
        return torch.lerp(start, end, t.unsqueeze(-1)), self.curve.curve(t)

    def volume(self, *, resolution: int) -> tuple[LatentGrid, Tensor]:
        """A grid around the data, and the logarithm of the magnification factor on it."""
        grid = LatentGrid.around(self.g.test_latents, resolution=resolution)
        return grid, magnification_factor(self.g.metric(grid.points)).log()


def measure(g: Generator, first: int, last: int) -> Tour:
    """The geodesic between the most typical test images of two classes."""
    return Tour(g, geodesic(g.metric, *class_pair(g, first, last)))
