"""Two moons: two half circles with noise, as a data set like any other."""

import torch
from sklearn.datasets import make_moons

from geolib.companion.data.datasets import ImageData
from geolib.companion.data.synthetic import as_images

NOISE = 0.1
"""standard deviation of the points about their half circles, whose radius is 1"""
_CENTRE = (0.5, 0.25)  # of the two half circles together
SCALE = 0.25  # the moons, 3 by 1.5 without noise, to fit the unit square that the decoder's sigmoid can reach


def load(n: int = 1000, *, seed: int = 0) -> ImageData:
    """Two moons as a data set of "images" with two "pixels": half circles with noise, scaled into the unit square.

    Points are in their order along the moons; every fifth one is for testing.

    Args:
        n: number of points, training and testing together; at least 50.
        seed: of the noise.

    Returns:
        The data; ``train_images (m, 2)`` and ``test_images (n - m, 2)``, labels 0 (upper moon) and 1 (lower moon).

    Raises:
        ValueError: for fewer than 50 points.

    Source:
        Yang & Hauberg 2018, who name neither the number of points nor the noise; scikit-learn's ``make_moons``.
    """
    if n < 50:
        raise ValueError(f"n: got {n}, expected at least 50")
    points, labels = make_moons(n, shuffle=False, noise=NOISE, random_state=seed)
    points = torch.from_numpy((points - _CENTRE) * SCALE + 0.5).float()
    labels = torch.from_numpy(labels).long()
    return as_images("two_moons", "sklearn.datasets.make_moons", points, labels)
