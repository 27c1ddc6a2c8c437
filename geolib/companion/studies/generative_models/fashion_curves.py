"""DWB-6 and DWB-7: interpolations under several variances of one decoder, how smooth they are and where they lead."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolib import LatentGraph, curve_length, geodesic
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.companion.studies.generative_models.support import OffTheData, evenly
from geolib.companion.studies.generative_models.variance_sweep import CHOSEN
from geolib.curves import straight

WIDE, MANY = (3.0, CHOSEN[1]), (CHOSEN[0], 128)
"""the (a, K) that the paper calls extreme"""
LABELS = {CHOSEN: "a = 1.25, K = 64", WIDE: "a = 3, K = 64", MANY: "a = 1.25, K = 128"}
SHOWN_CLASSES = (7, 0)
"""of the pair that is drawn, from sneaker to T-shirt as in the paper's Fig. 6"""
N_IMAGES = 12  # of a sequence, as in the paper
_POINTS = 256
MAX_STEPS = 150  # between walls as steep as these, curves are still getting shorter after many more
_NEIGHBORS = 5  # of the paper's graph, whose nodes are the centres

SMOOTHER = Claim(
    "DWB-6",
    "along the geodesic generated images change more smoothly than along the straight line",
    f"the largest of the {N_IMAGES - 1} steps between images, over the mean step, is smaller along the geodesic in "
    "more than half of the pairs: the 95 % interval of their share lies above one half",
    lambda low: low > 0.5,
)
WIDE_DISTORTS = Claim(
    "DWB-7",
    "geodesics at a = 3 are distorted",
    "more of their length lies off the data than at a = 1.25: the 95 % interval of the mean difference lies above 0",
    lambda low: low > 0,
)
MANY_DISTORT = Claim(
    "DWB-7",
    "geodesics at K = 128 are distorted",
    "more of their length lies off the data than at K = 64: the 95 % interval of the mean difference lies above 0",
    lambda low: low > 0,
)


@dataclass(frozen=True)
class FashionCurves:
    """Curves between pairs of test images, at equal steps of latent length ``(n, points, 2)``; the first is drawn."""

    g: Generator
    off: OffTheData
    line: Tensor
    geodesics: dict[tuple[float, int], Tensor]
    """by (a, K)"""
    graph: Tensor
    """the paper's way: shortest paths over a graph of the centres, smoothed, at the chosen (a, K)"""
    excess: Tensor
    """``(n,)``, by how much these are longer than the geodesics, relatively"""
    n_converged: dict[tuple[float, int], int]

    @property
    def curves(self) -> dict[str, Tensor]:
        """All kinds of curves by what a reader calls them."""
        return {
            "straight line": self.line,
            **{f"shortest curve, {LABELS[setting]}": points for setting, points in self.geodesics.items()},
            "path over the graph": self.graph,
        }

    def images(self, points: Tensor) -> Tensor:
        """Decoded means ``(n, N_IMAGES, D)`` at equal steps of latent length."""
        at = torch.linspace(0, points.shape[1] - 1, N_IMAGES).round().long()
        with torch.no_grad():
            return self.g.vae.mean(points[:, at])

    def roughness(self, points: Tensor) -> Tensor:
        """The largest step between the images of each curve over the mean one ``(n,)``."""
        steps = self.images(points).diff(dim=1).norm(dim=-1).double()
        return steps.amax(-1) / steps.mean(-1)

    def more_off(self, setting: tuple[float, int]) -> Tensor:
        """How much more of each geodesic's length is off the data than at the chosen (a, K), ``(n,)``."""
        return self.off.shares(self.geodesics[setting]) - self.off.shares(self.geodesics[CHOSEN])

    @property
    def smoother(self) -> Tensor:
        """``(n,)``, whether the geodesic's images change more evenly than the line's."""
        return self.roughness(self.geodesics[CHOSEN]) < self.roughness(self.line)

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table."""
        rows = []
        for label, points in self.curves.items():
            rows.append(
                number("DWB-7", f"{label}: share of its length off the data", 100 * self._off(points), unit="%")
            )
            distance = summaries.mean(self.off.mean_distance(points))
            rows.append(number("DWB-7", f"{label}: mean distance to the nearest latent", distance))
        for label in ("straight line", f"shortest curve, {LABELS[CHOSEN]}"):
            roughness = summaries.median(self.roughness(self.curves[label]))
            rows.append(number("DWB-6", f"{label}: largest step between images over the mean one, median", roughness))
        excess = summaries.median(self.excess)
        note = f"{len(self.g.rbf.centers)} centres, {_NEIGHBORS} neighbours each"
        rows.append(
            number("DWB-6", "paths over the paper's graph: longer by, median", 100 * excess, unit="%", note=note)
        )
        for setting, n in self.n_converged.items():
            what = f"shortest curves that converged, {LABELS[setting]}"
            rows.append(number("DWB-7", what, n, note=f"of {len(self.line)}"))
        return rows

    @property
    def convergence(self) -> str:
        """How many curves are geodesics to the tolerance, in words."""
        total, n = sum(self.n_converged.values()), len(self.n_converged) * len(self.line)
        if total == n:
            return "All of these curves converged to geodesics."
        return f"Of the {n} shortest curves {total} converged; the others are the shortest that were found."

    def percent_off(self, label: str) -> str:
        """The mean share of length off the data of a kind of curve, in words."""
        return f"{100 * self._off(self.curves[label]):.1f} %"

    @property
    def percent_smoother(self) -> str:
        """The share of pairs whose geodesic changes more smoothly, in words."""
        return f"{100 * summaries.share(self.smoother):.0f} %"

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the claims about interpolations: none where fewer than half of the curves are geodesics."""
        count, n = int(self.smoother.sum()), len(self.smoother)
        low, high = summaries.share_interval(count, n)
        told = f"{count} of {n} pairs ({100 * low:.0f} to {100 * high:.0f} %)"
        found = [SMOOTHER.decide(f"{told}; {self._converged(CHOSEN)}", low=self._trusted(low, CHOSEN))]
        for claim, setting in ((WIDE_DISTORTS, WIDE), (MANY_DISTORT, MANY)):
            more = 100 * self.more_off(setting)
            mean, half = summaries.mean(more), float(summaries.half_width(more))
            told = f"{mean:+.1f} percentage points ({mean - half:+.1f} to {mean + half:+.1f})"
            low = self._trusted(self._trusted(mean - half, CHOSEN), setting)
            found.append(claim.decide(f"{told}; {self._converged(setting)}", low=low))
        return found

    def _trusted(self, value: float, setting: tuple[float, int]) -> float:
        return value if self.n_converged[setting] >= len(self.line) / 2 else math.nan

    def _converged(self, setting: tuple[float, int]) -> str:
        return f"{self.n_converged[setting]} of {len(self.line)} curves converged"

    def _off(self, points: Tensor) -> float:
        return summaries.mean(self.off.shares(points))


def curves(models: dict[tuple[float, int], Generator], *, n_pairs: int, seed: int, max_steps: int) -> FashionCurves:
    """Interpolations of the pair that is drawn, and of ``n_pairs`` pairs of test images of different classes."""
    g = models[CHOSEN]
    start, end = _pairs(g, n_pairs, seed)
    t = torch.linspace(0, 1, _POINTS + 1).to(start)
    found = {
        setting: geodesic(models[setting].metric, start, end, latents=g.train_latents, max_steps=max_steps)
        for setting in (CHOSEN, WIDE, MANY)
    }
    graph = LatentGraph(g.metric, g.rbf.centers, n_neighbors=_NEIGHBORS)
    paths = evenly(graph.paths(start, end, n_segments=_POINTS).points)
    length = curve_length(g.metric, paths)
    return FashionCurves(
        g,
        OffTheData(g.train_latents, g.test_latents),
        straight(start, end, _POINTS),
        {setting: evenly(each.curve(t)) for setting, each in found.items()},
        paths,
        (length / found[CHOSEN].length - 1).cpu(),
        {setting: int(each.converged.sum()) for setting, each in found.items()},
    )


def _pairs(g: Generator, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents ``(n + 1, 2)`` of the pair that is drawn and of n others of different classes."""
    first, second = generators.class_pair(g, *SHOWN_CLASSES)
    a, b = generators.test_pairs(g.data, len(g.data.test_images) // 2, seed=seed)
    differ = (g.test_labels[a] != g.test_labels[b]).nonzero()[:n, 0]
    start, end = g.test_latents[a[differ]], g.test_latents[b[differ]]
    return torch.cat([first[None], start]), torch.cat([second[None], end])
