"""Other ways beside curves that were found, where no latents are given and a lattice would have too many nodes."""

import torch
from torch import Tensor

from geolib.curves import straight
from geolib.paths.starts.routes import WORTHWHILE, length_or_infinity
from geolib.riemannian import RiemannianMetric

_SEGMENTS = 6
_HEIGHT = 0.6  # of bows, relative to the distance from start to end
_AXES = 6  # of a fixed orthonormal basis, along which lines are bowed to both sides
_ALONG = 1e-3  # an axis that is so nearly parallel to a line gives it no side
# A bow is longer than its line by more than a third in the latent space. One that is so little longer than the curve
# that was found has met a region where ways are shorter. On smooth decoders without a variance hardly any is.
_LONGER = 1.05


def bowed_ways(
    metric: RiemannianMetric, start: Tensor, end: Tensor, length: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Starts of other ways between points ``(B, d)`` than curves of these lengths ``(B,)``.

    Lines are bowed to both sides along some axes, and to the side on which these bows are shorter, and measured on few
    segments. None is where the chord of the images says that no curve can be shorter by 1 %.

    Returns:
        The pairs that have another way ``rows (b,)``; the shortest bow of each ``(b, n + 1, d)``; and as rivals the
        shortest bows to the opposite sides: owners ``(m,)`` among the b, and ``(m, n + 1, d)``.
    """
    worth = (metric.chord(start, end) < WORTHWHILE * length).nonzero()[:, 0]
    a, b, limit = start[worth], end[worth], _LONGER * length[worth]
    d = a.shape[-1]
    line = straight(a, b, _SEGMENTS)
    t = torch.linspace(0, 1, _SEGMENTS + 1, dtype=a.dtype, device=a.device)
    bend = (_HEIGHT * 4 * t * (1 - t)).unsqueeze(-1) * (b - a).norm(dim=-1)[:, None, None]

    def bows(sides: Tensor) -> tuple[Tensor, Tensor]:
        """Curves ``(k, b, n + 1, d)`` to the sides ``(k, b, d)``, and their lengths, infinite on no side."""
        curves = line + bend * sides.unsqueeze(-2)
        lengths = length_or_infinity(metric, curves.flatten(0, 1)).reshape(curves.shape[:2])
        return curves, lengths.masked_fill((sides == 0).all(-1), torch.inf)

    # a basis that no symmetry of a metric has
    basis = torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = torch.linalg.qr(basis).Q[:_AXES].to(a).unsqueeze(1)
    sides = _across(torch.cat([axes, -axes]), b - a)
    curves, lengths = bows(sides)
    shorter = (2 * limit - lengths).clamp_min(0)
    downhill = _across((shorter.unsqueeze(-1) * sides).sum(0, keepdim=True), b - a)
    curves, lengths = (torch.cat(x) for x in zip((curves, lengths), bows(downhill), strict=True))
    sides = torch.cat([sides, downhill])

    shortest, best = lengths.min(0)
    rows = (shortest <= limit).nonzero()[:, 0]
    opposite = (sides[:, rows] * sides[best[rows], rows]).sum(-1) < 0
    shortest, second = torch.where(opposite, lengths[:, rows], torch.inf).min(0)
    rivalled = (shortest <= limit[rows]).nonzero()[:, 0]
    return worth[rows], curves[best[rows], rows], (rivalled, curves[second[rivalled], rows[rivalled]])


def _across(v: Tensor, chord: Tensor) -> Tensor:
    """The parts of vectors ``(k, B, d)`` at right angles to ``chord (B, d)``, of length 1, or zero where they have
    none."""
    unit = chord / chord.norm(dim=-1, keepdim=True)
    across = v - (v * unit).sum(-1, keepdim=True) * unit
    size = across.norm(dim=-1, keepdim=True)
    large = size > _ALONG * v.norm(dim=-1, keepdim=True)
    return torch.where(large, across / torch.where(large, size, 1.0), 0.0)
