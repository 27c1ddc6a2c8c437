"""Surfaces in space: a folded band with the profile of a Z, one with that of an S, and a sphere."""

import torch
from torch import Tensor

from geolib.companion.data.datasets import ImageData
from geolib.companion.data.synthetic import as_images

NOISE = 0.02
"""standard deviation of the points about their surface, whose extent is 2 (the sphere's radius is 1)"""
_SCALE = 0.4  # into the unit cube, with room for the noise
LABELS = {"z": "Z-shape", "s": "S-shape", "sphere": "sphere"}
SHAPES = tuple(LABELS)


def load(shape: str, n: int = 1500, *, seed: int = 0) -> ImageData:
    """Points on a surface as a data set of "images" with three "pixels", in the unit cube.

    The bands are one unit wide. The profile of the Z is (-1, 1), (1, 1), (-1, -1), (1, -1) joined by straight lines,
    that of the S two half circles of radius 1/2. Both are filled evenly by length, and the sphere evenly by area.

    Args:
        shape: one of ``SHAPES``.
        n: number of points, training and testing together; at least 50.
        seed: of the points and the noise.

    Returns:
        The data. Labels are the three strokes of the Z, the two half circles of the S, the two halves of the sphere.

    Raises:
        ValueError: for a shape that there is not, or for fewer than 50 points.

    Source:
        Danielou et al. 2024, Fig. 1, who show the Z and describe none of its measures.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape: got {shape!r}, expected one of {', '.join(map(repr, SHAPES))}")
    if n < 50:
        raise ValueError(f"n: got {n}, expected at least 50")
    generator = torch.Generator().manual_seed(seed)
    points, labels = _MADE[shape](n, generator)
    points = points + NOISE * torch.randn(n, 3, generator=generator)
    return as_images(f"surface_{shape}", f"geolib.companion.data.surfaces {shape}", _SCALE * points + 0.5, labels)


def _z(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    corners = torch.tensor([[-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    lengths = corners.diff(dim=0).norm(dim=-1)
    reached = torch.cat([torch.zeros(1), lengths.cumsum(0)])
    at = torch.rand(n, generator=generator) * reached[-1]
    stroke = torch.searchsorted(reached[1:-1], at)
    share = ((at - reached[stroke]) / lengths[stroke]).unsqueeze(-1)
    return _band(torch.lerp(corners[stroke], corners[stroke + 1], share), generator), stroke


def _s(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    at = torch.rand(n, generator=generator) * 2 - 1  # the profile's length over pi / 2, from its middle
    angle, half = at.abs() * torch.pi, at.sign()
    profile = torch.stack([half * angle.sin() / 2, half * (1 - angle.cos()) / 2], dim=-1)
    return _band(profile, generator), (at > 0).long()


def _sphere(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    points = torch.randn(n, 3, generator=generator)
    points = points / points.norm(dim=-1, keepdim=True)
    return points, (points[:, 2] > 0).long()


def _band(profile: Tensor, generator: torch.Generator) -> Tensor:
    across = torch.rand(len(profile), generator=generator) - 0.5
    return torch.stack([profile[:, 0], across, profile[:, 1]], dim=-1)


_MADE = {"z": _z, "s": _s, "sphere": _sphere}
