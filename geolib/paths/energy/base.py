"""The path energy of discrete curves to second order, for Newton steps and the geodesic equation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from geolib.paths.energy.expansion import Expansion, compact, joined
from geolib.riemannian import RiemannianMetric


@dataclass(frozen=True)
class SecondVariation:
    r"""The covariant second variation of half the sum of squared segments, exactly, and its gradient.

    For a field :math:`\delta` along a curve that vanishes at both ends it is, up to the factor 1/N,
    :math:`\int |D_t \delta|^2 - \langle R(\delta, \gamma') \gamma', \delta \rangle \, dt`. Where the curve is no
    geodesic the covariant derivatives leave out what only the coordinates bring in.
    """

    total: Tensor
    """(B,), the sum of the squared segments"""
    gradient: Tensor
    """(B, N - 1, d), in the inner points"""
    metric: Tensor
    """(B, N - 1, d, d), at the inner points"""
    hessian: tuple[Tensor, Tensor]
    """diagonal blocks (B, N - 1, d, d) and those to their right (B, N - 2, d, d)"""
    stiffness: tuple[Tensor, Tensor]
    r"""the same without the curvature: :math:`\int |D_t \delta|^2`, positive definite"""
    finite: Tensor
    """(B,)"""


class PathEnergy(ABC):
    """Half the sum of squared segments of a batch of curves with fixed ends."""

    def __init__(self, metric: RiemannianMetric):
        self.metric = metric

    @torch.no_grad()
    def expand(
        self,
        points: Tensor,
        index: Tensor,
        *,
        before: tuple[Tensor, ...] = (),
        rows: Tensor | None = None,
        keep: bool = True,
    ) -> Expansion:
        """Around ``points (b, N + 1, d)`` of the curves ``index (b,)``. Values may be not finite.

        Args:
            points: with the ends of those curves.
            index: which of the curves these are.
            before: the memory of the expansion one step before these points.
            rows: where in that memory these curves are, ``(b,)``.
            keep: whether to return a memory.
        """
        places = rows.tolist() if before else []
        parts = []
        for part in _parts(self.metric, points):
            here = compact(places[part], points)
            parts.append(self._expand(points[part], index[part], tuple(x[here] for x in before), keep))
        return joined(parts)

    @abstractmethod
    def _expand(self, points: Tensor, index: Tensor, before: tuple[Tensor, ...], keep: bool) -> Expansion:
        """``expand`` for so few curves that they fit a chunk; ``before`` is what is remembered of these."""

    @torch.no_grad()
    def second_variation(self, points: Tensor, index: Tensor) -> SecondVariation:
        """At ``points (b, N + 1, d)`` of the curves ``index (b,)``. Values may be not finite."""
        return joined([self._second_variation(points[part], index[part]) for part in _parts(self.metric, points)])

    @abstractmethod
    def _second_variation(self, points: Tensor, index: Tensor) -> SecondVariation:
        """``second_variation`` for so few curves that they fit a chunk."""

    @torch.no_grad()
    def exact_blocks(self, points: Tensor, index: Tensor) -> Tensor:
        """The local Hessian blocks ``(b, S, d, d)`` at ``points (b, N + 1, d)`` of the curves ``index (b,)``."""
        return torch.cat([self._exact_blocks(points[part], index[part]) for part in _parts(self.metric, points)])

    @abstractmethod
    def _exact_blocks(self, points: Tensor, index: Tensor) -> Tensor:
        """``exact_blocks`` for so few curves that they fit a chunk."""

    @staticmethod
    @abstractmethod
    def at_blocks(step: Tensor) -> Tensor:
        """How far the places of the local blocks move ``(b, S, d)`` in a step of the inner points ``(b, N - 1, d)``."""

    @staticmethod
    @abstractmethod
    def spread(local_blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Diagonal blocks, and those to their right, of the Hessian with these local blocks ``(b, S, d, d)``."""

    @staticmethod
    @abstractmethod
    def refined(local_blocks: Tensor) -> Tensor:
        """The local blocks ``(b, S, d, d)`` on twice as many segments of half the length."""


def _parts(metric: RiemannianMetric, points: Tensor) -> Iterator[slice]:
    """Slices over curves ``(b, N + 1, d)`` that fit a chunk."""
    size = max(1, metric.points_at_once(points) // (points.shape[1] - 1))
    for first in range(0, len(points), size):
        yield slice(first, first + size)
