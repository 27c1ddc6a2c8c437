"""A planar robot arm with six joints that is moved in two ways: positions of its joints by forward kinematics."""

import math

import torch
from torch import Tensor

from geolib.companion.data.datasets import ImageData
from geolib.companion.data.synthetic import as_images

N_JOINTS = 6
TURN = 2 * math.pi / 3
"""the largest angle in radians that the first joint turns to either side"""
BEND = math.pi / 4
"""the largest angle in radians that each of the other joints bends to either side"""
NOISE = math.pi / 180
"""standard deviation in radians of each joint's own error"""
_SCALE = 0.45  # of the arm's length, in the unit square, with room for the noise


def positions(joints: Tensor) -> Tensor:
    r"""Forward kinematics: the ends of the links of an arm of length 1 whose base is at the origin.

    All joints turn about one axis, so link k points into the direction of the sum of the first k angles:
    :math:`p_k = p_{k-1} + \frac{1}{J} (\cos \sum_{i \le k} \theta_i, \sin \sum_{i \le k} \theta_i)`.

    Args:
        joints: angles ``(..., J)`` in radians; 0 everywhere is an arm stretched along the first axis.

    Returns:
        ``(..., J, 2)``
    """
    direction = joints.cumsum(-1)
    return torch.stack([direction.cos(), direction.sin()], dim=-1).cumsum(-2) / joints.shape[-1]


def in_space(images: Tensor) -> Tensor:
    """Positions ``(..., 6, 2)``, in arm lengths, of rows ``(..., 12)`` of the data set or of a decoder."""
    return ((images - 0.5) / _SCALE).unflatten(-1, (N_JOINTS, 2))


def load(n: int = 2000, *, seed: int = 0) -> ImageData:
    """Positions of the six links' ends of an arm in random poses, twelve numbers each, scaled into the unit square.

    A pose has two degrees of freedom, both evenly distributed: the first joint turns by up to ``TURN``, and all others
    bend alike by up to ``BEND``. Each joint has its own small error besides.

    Args:
        n: number of poses, training and testing together; at least 50.
        seed: of the poses and the errors.

    Returns:
        The poses. Labels tell to which side the arm turns and bends: 0 to 3.

    Raises:
        ValueError: for fewer than 50 poses.

    Source:
        Chen et al. 2018 show an arm with six joints and say nothing of its poses: these are ours.
    """
    if n < 50:
        raise ValueError(f"n: got {n}, expected at least 50")
    random = torch.Generator().manual_seed(seed)
    turn, bend = (2 * torch.rand(2, n, generator=random, dtype=torch.float64) - 1) * torch.tensor([[TURN], [BEND]])
    joints = torch.cat([turn[:, None], bend[:, None].expand(-1, N_JOINTS - 1)], dim=1)
    joints = joints + NOISE * torch.randn(n, N_JOINTS, generator=random, dtype=torch.float64)
    images = (_SCALE * positions(joints).flatten(-2) + 0.5).float()
    labels = 2 * (turn > 0).long() + (bend > 0).long()
    return as_images("robot_arm", "geolib.companion.data.robot_arm", images, labels)
