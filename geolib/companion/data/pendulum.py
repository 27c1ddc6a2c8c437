"""A pendulum at all angles, rendered to small images."""

import math

import torch
from torch import Tensor

from geolib.companion.data.datasets import ImageData
from geolib.companion.data.synthetic import as_images, held_out

SHAPE = (16, 16)
NOISE = 0.05
"""standard deviation of the noise that is added to each pixel"""
_LENGTH = 0.8  # of the rod, from the middle of an image whose half side is 1
_WIDTH = 0.15  # at which the rod's brightness has fallen by a factor e
SECTORS = 8
"""of the circle, which are the labels"""


def angles(n: int) -> Tensor:
    """n angles in radians ``(n,)`` at equal steps over the whole circle, counted from hanging down."""
    return torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)


def test_angles(data: ImageData) -> Tensor:
    """The angles in radians ``(m,)`` of the test images of a data set that ``load`` made."""
    n = len(data.train_images) + len(data.test_images)
    return angles(n)[held_out(n)]


def apart(first: Tensor, second: Tensor) -> Tensor:
    """The angle between angles, in radians from 0 to pi."""
    turned = (first - second).abs() % (2 * math.pi)
    return torch.minimum(turned, 2 * math.pi - turned)


def rendered(angle: Tensor) -> Tensor:
    """Images ``(n, 256)`` of pendulums at angles ``(n,)``: a bright rod from the middle outwards, blurred, on black."""
    side = (torch.arange(SHAPE[0], dtype=torch.float64) + 0.5) * 2 / SHAPE[0] - 1
    y, x = torch.meshgrid(side, side, indexing="ij")  # rows run downwards
    pixels = torch.stack([x.flatten(), y.flatten()], dim=-1)
    rod = torch.stack([angle.sin(), angle.cos()], dim=-1).double()
    along = (pixels @ rod.T).clamp(0, _LENGTH)  # (256, n), where on the rod the nearest point lies
    away = (pixels.unsqueeze(1) - along.unsqueeze(-1) * rod).square().sum(-1)
    return torch.exp(-away / _WIDTH**2).T.float()


def load(n: int = 2000, *, seed: int = 0) -> ImageData:
    """Noisy images of a pendulum at n angles over the whole circle.

    Args:
        n: number of images, training and testing together; at least 50.
        seed: of the noise.

    Returns:
        The images, in the order of their angles; labels 0 to 7 are the nearest eighths of a turn.

    Raises:
        ValueError: for fewer than 50 images.

    Source:
        Chen et al. 2018, whose slides give the pictures' size and no other measure.
    """
    if n < 50:
        raise ValueError(f"n: got {n}, expected at least 50")
    angle = angles(n)
    noise = NOISE * torch.randn(n, math.prod(SHAPE), generator=torch.Generator().manual_seed(seed))
    labels = (angle * SECTORS / (2 * math.pi)).round().long() % SECTORS
    images = (rendered(angle) + noise).clamp(0, 1)
    return as_images("pendulum", "geolib.companion.data.pendulum", images, labels, shape=SHAPE)
