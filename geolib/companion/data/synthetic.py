"""Points that were made here, as a data set like any other."""

import hashlib

import torch
from torch import Tensor

from geolib.companion.data.datasets import ImageData

_TEST_EVERY = 5


def held_out(n: int) -> Tensor:
    """Which of n points are for testing ``(n,)``."""
    return torch.arange(n) % _TEST_EVERY == _TEST_EVERY // 2


def as_images(
    name: str, maker: str, points: Tensor, labels: Tensor, *, shape: tuple[int, int] | None = None
) -> ImageData:
    """Points ``(n, D)`` in the unit cube as "images" of D "pixels"; every fifth one is for testing.

    Args:
        name: of the data set.
        maker: what made the points.
        points: ``(n, D)``, float32.
        labels: ``(n,)``, int64.
        shape: rows and columns of an image; one row where it is None.
    """
    total = hashlib.sha256(points.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    test = held_out(len(points))
    return ImageData(
        name=name,
        train_images=points[~test],
        train_labels=labels[~test],
        test_images=points[test],
        test_labels=labels[test],
        classes=tuple(labels.unique().tolist()),
        source="synthetic",
        verified=True,  # made here: there is nothing published that they could differ from
        checksums={maker: total},
        notice="",
        shape=shape or (1, points.shape[1]),
    )
