"""Notebook 05: which straight lines of two models may be compared (Michelis & Becker 2021, Sec. 3 and App. D)."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geolib import compare_models, magnification_factor
from geolib.companion.models.generators import Generator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import spread, summaries
from geolib.companion.studies.evidence import Claim, number
from geolib.evaluation import ModelComparison

NAMES = ("VAE1", "VAE2")
PAPER_LINES = (1, 6, 19)  # the pairs of the paper's own sample that it calls comparable
_TIMES = 2  # improvements are vastly different where one is so many times the other

DIFFERENT = Claim(
    "MB-6",
    "the relative improvements of two models can be vastly different",
    f"for at least half of the pairs the larger improvement is at least {_TIMES} times the smaller, and the difference "
    "is above the threshold",
    lambda share: share >= 0.5,
)
COMPARABLE = Claim(
    "MB-6",
    "some pairs are comparable, by a fixed threshold",
    f"at least {len(PAPER_LINES)} pairs, as many as the paper names, are within the threshold, but fewer than half of "
    "all pairs",
    lambda n, n_pairs: len(PAPER_LINES) <= n < n_pairs / 2,
    paper=f"lines {', '.join(map(str, PAPER_LINES[:-1]))} and {PAPER_LINES[-1]}, for instance",
)


@dataclass(frozen=True)
class TwoModels:
    """The same pairs of test images in two models."""

    models: tuple[Generator, Generator]
    first: Tensor
    """(n,), indices of the test images where the pairs start"""
    second: Tensor
    """(n,), and where they end"""
    comparison: ModelComparison
    retrained: list[ModelComparison] = field(default_factory=list)
    """the same pairs in the same two models trained from other seeds"""

    @property
    def n_different(self) -> int:
        """The number of pairs that are not comparable, and whose larger improvement is at least twice the smaller."""
        a, b = (side.improvement.cpu() for side in (self.comparison.a, self.comparison.b))
        twice = torch.maximum(a, b) >= _TIMES * torch.minimum(a, b)
        return int((twice & ~self.comparison.comparable).sum())

    @property
    def n_comparable(self) -> int:
        """The number of pairs within the threshold."""
        return int(self.comparison.comparable.sum())

    def most_alike(self, n: int) -> list[int]:
        """The ``n`` pairs whose improvements differ least between the models, from the most alike on."""
        return self.comparison.difference.argsort()[:n].tolist()

    @property
    def why_comparable(self) -> str:
        """What the comparable pairs have in common, in words: the largest improvement that is left in them."""
        comparable, sides = self.comparison.comparable, (self.comparison.a, self.comparison.b)
        if not bool(comparable.any()):
            return "No pair is within the threshold"
        largest = max(float(side.improvement.cpu()[comparable].max()) for side in sides)
        said = f"None of them can be shortened by more than {100 * largest:.1f} % in either model"
        if largest <= 2 * self.comparison.threshold:
            return f"{said}: they are alike because their straight lines are almost geodesics in both"
        return f"{said}: not all of their lines are geodesics, but they deviate by about as much in both"

    @property
    def where_comparable(self) -> str:
        """Whether the comparable lines are short and stay within a class, in words, against the others."""
        comparable = self.comparison.comparable
        n, others = self.n_comparable, len(comparable) - self.n_comparable
        if not n or not others:
            return f"{n} of {len(comparable)} pairs are comparable, so there are no two groups to compare"
        labels = self.models[0].test_labels
        within = labels[self.first] == labels[self.second]
        ratios = []
        for side in (self.comparison.a, self.comparison.b):
            length = side.line_length.cpu()
            ratios.append(summaries.median(length[comparable]) / summaries.median(length[~comparable]))
        if max(ratios) < 0.8:
            said = "the comparable lines are the short ones"
        elif min(ratios) > 1.25:
            said = "the comparable lines are the long ones"
        else:
            said = "length alone does not make a pair comparable"
        return (
            f"{int(within[comparable].sum())} of the {n} comparable pairs join two images of one class, and "
            f"{int(within[~comparable].sum())} of the other {others}. Measured by the metric, the median comparable "
            f"line is {ratios[0]:.2f} times as long as the median other line in {NAMES[0]}, and {ratios[1]:.2f} times "
            f"in {NAMES[1]}: {said}"
        )

    @torch.no_grad()
    def strips(self, pair: int, n_images: int) -> list[Tensor]:
        """Images ``(n_images, D)`` decoded along line and curve of the first model, then of the second."""
        strips = []
        for g, curves in zip(self.models, (self.comparison.a, self.comparison.b), strict=True):
            points = curves.points[pair]
            line = points[[0, -1]]
            # the curve's points are equally spaced in length, so that those in between are, too
            for nodes in (line, points):
                z = F.interpolate(nodes.T[None], size=n_images, mode="linear", align_corners=True)[0].T
                strips.append(g.vae.mean(z).cpu())
        return strips

    def look_alike(self, shown: list[int], *, n_images: int = 15) -> str:
        """Whether line and curve, and the two models, give different images on these pairs, in words."""
        strips = [torch.cat(each) for each in zip(*(self.strips(pair, n_images) for pair in shown), strict=True)]
        line_a, curve_a, line_b, curve_b = strips

        def apart(x: Tensor, y: Tensor) -> float:
            return 255 * float((x - y).double().square().mean().sqrt())

        curves = max(apart(line_a, curve_a), apart(line_b, curve_b))
        models = apart(line_a, line_b)
        if models > 2 * curves:
            said = "what differs is the model, not the path, and so these strips may be compared"
        else:
            said = "the path matters about as much as the model, and so even these strips must be compared with care"
        return (
            f"On these pairs line and curve differ by at most {curves:.1f} grey levels of 255 (root mean square over "
            f"pixels) in either model, and the two models' lines by {models:.1f} grey levels: {said}"
        )

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """Rows of the numbers table, of the improvements."""
        a, b = self.comparison.a, self.comparison.b
        rows = [
            number("MB-6", "mean improvement of VAE1", 100 * summaries.mean(a.improvement), unit="%"),
            number("MB-6", "mean improvement of VAE2", 100 * summaries.mean(b.improvement), unit="%"),
            number(
                "MB-6",
                "curves whose solver converged",
                100 * summaries.share(torch.cat([a.converged, b.converged])),
                unit="%",
            ),
            number(
                "MB-6",
                "largest difference between the models",
                100 * float(self.comparison.difference.max()),
                unit="%",
                note="percentage points",
            ),
            number("MB-6", f"comparable pairs of {len(self.first)}", self.n_comparable),
            number(
                "MB-6",
                f"pairs of {len(self.first)} that are vastly different",
                self.n_different,
                note=f"above the threshold, and the larger improvement at least {_TIMES} times the smaller",
            ),
        ]
        every = (self.comparison, *self.retrained)
        for quantity, samples in (
            ("mean improvement of VAE1", [each.a.improvement for each in every]),
            ("mean improvement of VAE2", [each.b.improvement for each in every]),
            ("share of comparable pairs", [each.comparable for each in every]),
        ):
            rows += spread.of_means([100 * sample.double() for sample in samples]).rows(quantity, unit="%")
        return rows

    @property
    def numbers_of_the_most_alike(self) -> list[dict[str, Any]]:
        """Rows of the numbers table, of the pair whose improvements are most alike."""
        best = self.comparison.best
        return [
            number(
                "MB-8",
                "difference of improvements of the most alike pair",
                100 * float(self.comparison.difference[best]),
                unit="%",
                note=f"percentage points; pair {best + 1}; the paper shows pair 19 of its own sample",
            )
        ]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Verdicts on the paper's claims."""
        n = len(self.first)
        return [
            DIFFERENT.decide(f"{self.n_different} of {n} pairs", share=self.n_different / n),
            COMPARABLE.decide(f"{self.n_comparable} of {n} pairs", n=self.n_comparable, n_pairs=n),
        ]

    def volumes(self, *, resolution: int) -> tuple[LatentGrid, list[Tensor]]:
        """One grid that covers the data of both models, and the logarithm of either's magnification factor on it."""
        grid = LatentGrid.around(torch.cat([g.test_latents for g in self.models]), resolution=resolution, margin=0.02)
        return grid, [magnification_factor(g.metric(grid.points)).log() for g in self.models]

    def volumes_at_the_data(self) -> Tensor:
        """The logarithms of the magnification factors at the test latents of both models, together."""
        return torch.cat([magnification_factor(g.metric(g.test_latents)).log() for g in self.models])


def measure(
    models: tuple[Generator, Generator],
    first: Tensor,
    second: Tensor,
    comparison: ModelComparison,
    others: list[tuple[Generator, Generator]],
) -> TwoModels:
    """The same pairs in two models, and in the same two trained from other seeds.

    Args:
        models: the two generators.
        first: ``(n,)``, indices of the test images where the pairs start.
        second: ``(n,)``, and where they end.
        comparison: ``geolib.compare_models`` of these pairs in these models.
        others: the same two recipes trained from other seeds.
    """
    retrained = [
        compare_models(
            *((g.metric, g.test_latents[first], g.test_latents[second]) for g in pair), threshold=comparison.threshold
        )
        for pair in others
    ]
    return TwoModels(models, first, second, comparison, retrained)
