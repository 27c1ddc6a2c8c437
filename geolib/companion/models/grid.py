"""A regular grid over the latent plane, on which maps are computed."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentGrid:
    """A regular grid over a rectangle of the latent plane."""

    x: Tensor
    """(nx,)"""
    y: Tensor
    """(ny,)"""

    @classmethod
    def around(cls, latents: Tensor, *, resolution: int, margin: float = 0.15) -> "LatentGrid":
        """A square grid that covers latents ``(n, 2)`` with a margin, as a share of their range."""
        low, high = latents.amin(0), latents.amax(0)
        centre, half = (low + high) / 2, float((high - low).max()) / 2 * (1 + 2 * margin)
        x, y = (torch.linspace(float(c) - half, float(c) + half, resolution) for c in centre)
        return cls(x.to(latents), y.to(latents))

    @property
    def points(self) -> Tensor:
        """``(ny, nx, 2)``"""
        y, x = torch.meshgrid(self.y, self.x, indexing="ij")
        return torch.stack([x, y], dim=-1)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """left, right, bottom, top, half a cell beyond the outermost points"""
        half = float(self.x[1] - self.x[0]) / 2
        return float(self.x[0]) - half, float(self.x[-1]) + half, float(self.y[0]) - half, float(self.y[-1]) + half
