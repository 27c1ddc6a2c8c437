"""DWB-1: surfaces in space whose geometry is known, their latent spaces, and geodesics between far points of them."""

from dataclasses import dataclass
from typing import Any

import torch
from scipy.spatial import KDTree
from torch import Tensor

from geolib import geodesic, magnification_factor
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.companion.studies.generative_models.support import distance_to
from geolib.curves import straight

_POINTS = 128

ON_THE_SURFACE = Claim(
    "DWB-1",
    "with a meaningful variance, geodesics follow the data of a Z-shaped surface",
    "their images stay nearer to the data than the straight line's: the 95 % interval of the mean difference in "
    "distance to the nearest point of the data lies below 0",
    lambda high: high < 0,
)


@dataclass(frozen=True)
class Surface:
    """A generator of one surface, its metric on a map, and curves between test points."""

    g: Generator
    label: str
    grid: LatentGrid
    log_volume: Tensor
    """``(ny, nx)``, log sqrt det M"""
    log_volume_at_data: Tensor
    """``(m,)``"""
    line: Tensor
    """``(n, points, 2)``; the first pair, the two test latents farthest from each other, is drawn"""
    geodesic: Tensor
    """``(n, points, 2)``"""

    def image(self, points: Tensor) -> Tensor:
        """Decoded points ``(..., 3)``."""
        with torch.no_grad():
            return self.g.vae.mean(points)

    def distance(self, points: Tensor) -> Tensor:
        """The mean distance of each curve's image to the nearest point of the data ``(n,)``."""
        tree = KDTree(self.g.data.train_images.double().numpy())
        return distance_to(tree, self.image(points)).mean(-1)

    @property
    def difference(self) -> tuple[float, float]:
        """The geodesic's distance to the data less the line's: the mean, and half its 95 % interval."""
        nearer = self.distance(self.geodesic) - self.distance(self.line)
        return summaries.mean(nearer), float(summaries.half_width(nearer))


@dataclass(frozen=True)
class Surfaces:
    """All surfaces, by shape."""

    found: dict[str, Surface]

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = []
        for one in self.found.values():
            for name, points in (("straight lines", one.line), ("geodesics", one.geodesic)):
                distance = summaries.mean(one.distance(points))
                rows.append(number("DWB-1", f"{one.label}: mean distance of the image of {name} to the data", distance))
        return rows

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The verdict on the paper's shape."""
        mean, half = self.found["z"].difference
        told = f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f}), the unit cube as unit"
        return [ON_THE_SURFACE.decide(told, high=mean + half)]

    @property
    def nearer(self) -> str:
        """Where geodesics are nearer to the data than straight lines, in words."""
        names = [one.label for one in self.found.values() if sum(one.difference) < 0]
        if not names:
            return "On none of the surfaces are geodesics nearer to the data than straight lines."
        return f"Geodesics are nearer to the data than straight lines on {len(names)} of 3: {', '.join(names)}."


def surface(g: Generator, label: str, *, n_pairs: int, resolution: int, seed: int) -> Surface:
    """The geometry of one surface's generator."""
    exact = generators.in_double(g)
    grid = LatentGrid.around(exact.test_latents, resolution=resolution, margin=0.3)
    volumes = [magnification_factor(exact.metric(z)).log().cpu() for z in (grid.points, exact.test_latents)]
    first, second = generators.test_pairs(g.data, n_pairs, seed=seed)
    apart = torch.cdist(g.test_latents, g.test_latents)
    far = divmod(int(apart.argmax()), len(apart))
    start, end = (
        torch.cat([g.test_latents[[k]], g.test_latents[chosen]]) for k, chosen in zip(far, (first, second), strict=True)
    )
    t = torch.linspace(0, 1, _POINTS + 1).to(start)
    shortest = geodesic(g.metric, start, end, latents=g.train_latents).curve(t)
    return Surface(g, label, grid, *volumes, straight(start, end, _POINTS), shortest)


def measure(
    models: dict[str, Generator], labels: dict[str, str], *, n_pairs: int, resolution: int, seed: int
) -> Surfaces:
    """All surfaces, from their generators by shape."""
    return Surfaces(
        {
            shape: surface(g, labels[shape], n_pairs=n_pairs, resolution=resolution, seed=seed)
            for shape, g in models.items()
        }
    )
