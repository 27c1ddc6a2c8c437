"""How evenly a decoder's output changes along curves whose parameter grows by equal steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geolib.companion.studies import summaries
from geolib.companion.studies.evidence import Claim, Verdict, number
from geolib.curves import straight
from geolib.paths.result import Geodesic

STEPS = 32
EVEN = 0.1
"""coefficient of variation of the output's steps, below which we call its change even"""


@torch.no_grad()
def step_lengths(decode: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Euclidean distances between neighbouring outputs.

    Args:
        decode: ``z (n, d) -> (n, D)``.
        points: curves ``(..., N + 1, d)``.

    Returns:
        ``(..., N)``, in units of the output.
    """
    images = decode(points.reshape(-1, points.shape[-1])).reshape(*points.shape[:-1], -1)
    return images.diff(dim=-2).norm(dim=-1)


def variation(decode: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The coefficient of variation of the output's steps along curves: their standard deviation over their mean.

    0 where every step changes the output by as much. Of N steps of which one makes the whole change it is the root of
    N - 1.

    Args:
        decode: ``z (n, d) -> (n, D)``.
        points: curves ``(..., N + 1, d)`` at equal steps of their parameter, each with an output that changes.

    Returns:
        ``(...)``, in double precision.
    """
    steps = step_lengths(decode, points).double()
    return steps.std(dim=-1, correction=0) / steps.mean(dim=-1)


@dataclass(frozen=True)
class Evenness:
    """Straight lines and geodesics between pairs of latents, and how evenly the output changes along both."""

    line: Tensor
    """``(n, STEPS + 1, d)``, at equal steps of latent length"""
    geodesic: Tensor
    """``(n, STEPS + 1, d)``, at equal steps of the geodesic's parameter"""
    line_variation: Tensor
    """``(n,)``, coefficient of variation of the output's steps"""
    geodesic_variation: Tensor
    """``(n,)``"""

    def mean(self, name: str) -> tuple[float, float]:
        """The mean coefficient of variation of ``"line"`` or ``"geodesic"``, and half its 95 % interval."""
        values = getattr(self, f"{name}_variation")
        return summaries.mean(values), float(summaries.half_width(values))

    def words(self, name: str) -> str:
        """The same for a reader."""
        mean, half = self.mean(name)
        return f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"

    def numbers(self, key: str, label: str) -> list[dict[str, Any]]:
        """Rows of the numbers table for the claim ``key`` on the data that ``label`` names."""
        note = f"{STEPS} steps, mean and 95 % interval of {len(self.line)} pairs"
        return [
            number(key, f"{label}: coefficient of variation of the output's steps, {what}", self.words(name), note=note)
            for name, what in (("line", "straight lines"), ("geodesic", "geodesics"))
        ]

    def decide(self, claim: Claim, *, trusted: bool = True) -> dict[str, Any]:
        """The verdict on a claim that ``evenly`` makes; none where the curves are not ``trusted`` to be geodesics.

        The claim is contradicted where the whole interval of one kind of curves is on the other side of ``EVEN``, and
        not reproduced where an interval holds it.
        """
        line, geodesic = self.mean("line"), self.mean("geodesic")
        if sum(line) >= EVEN >= geodesic[0] - geodesic[1]:
            claim = replace(claim, otherwise=Verdict.NOT_REPRODUCED)
        told = f"{self.words('geodesic')} along geodesics, {self.words('line')} along lines"
        return claim.decide(told, geodesic_high=sum(geodesic) if trusted else math.nan, line_low=line[0] - line[1])


def evenly(key: str, label: str) -> Claim:
    """The claim of Chen et al. 2018 on one data set."""
    return Claim(
        key,
        f"{label}: equal steps along the geodesic change the output evenly, along the straight line they do not",
        f"the mean coefficient of variation of {STEPS} steps of the output, with its whole 95 % interval, is below "
        f"{EVEN} along geodesics and above {EVEN} along straight lines",
        lambda geodesic_high, line_low: geodesic_high < EVEN < line_low,
    )


def measure(decode: Callable[[Tensor], Tensor], curves: Geodesic) -> Evenness:
    """Evenness along geodesics ``(n,)`` and along the straight lines between their ends.

    Args:
        decode: the decoder under whose metric these are geodesics, ``z (n, d) -> (n, D)``.
        curves: from ``geolib.geodesic``.
    """
    start, end = curves.points[:, 0], curves.points[:, -1]
    line = straight(start, end, STEPS)
    points = curves.curve(torch.linspace(0, 1, STEPS + 1, dtype=start.dtype, device=start.device))
    return Evenness(line, points, variation(decode, line).cpu(), variation(decode, points).cpu())
