"""One interface to every kind of metric: ``as_metric`` turns what the caller brings into a ``RiemannianMetric``."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from geolib import checks
from geolib.metric import Map, PullbackMetric
from geolib.trials.tensors import checked, try_tensors

# what public functions take
Metric = PullbackMetric | Callable[[Tensor], Tensor]

# how many points a callable z -> M that is not a PullbackMetric is given at once
_CHUNK_OF_CALLABLES = 4096
# A chunk fits the cache. This many chunks add little to the memory in use (a GPU's chunks are larger).
_CHUNKS_KEPT_CPU = 24
_CHUNKS_KEPT_GPU = 4
# With few outputs a point's Jacobian is small, but everything else takes up to 2 KiB per point.
_POINTS_KEPT = 2**18
# Points at which a callable is tried; its tensors must be symmetric and positive semidefinite there.
_MOST_TRIED = 64


class RiemannianMetric:
    """A metric given by its tensors: any callable ``z (..., d) -> M (..., d, d)``."""

    std: Map | None = None
    """the standard deviation of the generator that the metric is pulled back from, where it has one"""
    features: Map | None = None
    """its feature map, where it has one"""
    maps: tuple[tuple[Map, ...], ...] = ()
    """the maps that side by side are its immersion, each as functions that follow one another; none without one"""
    repeatable: bool = False
    """whether lengths may be recorded by a checkpoint, which evaluates them again in the backward pass: torch does not
    allow that around reverse mode of its own, which Eq. 4 needs and which a callable may contain"""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.source = function

    def unchecked(self, z: Tensor) -> Tensor:
        """The tensors ``(n, d, d)`` at ``z (n, d)``, finite or not: a solver's trial point may lie anywhere."""
        return checks.nan_where_not_finite(self.source, (z.shape[-1],) * 2, z)

    def __call__(self, z: Tensor) -> Tensor:
        """The tensors ``(..., d, d)`` at ``z (..., d)``, their shape and finiteness checked."""
        return checked(self.source, z)

    def try_at(self, z: Tensor) -> None:
        """Refuse what cannot give geodesics, at some of the points ``z (n, d)`` and beside the first of them, before
        work is spent. A ``PullbackMetric`` does so by itself."""
        try_tensors(self.source, z[:: math.ceil(len(z) / _MOST_TRIED)])

    @property
    def latent_dim(self) -> int:
        """The latent dimension d, where the metric declares it."""
        raise TypeError("latent_dim: needed for a metric that is not a PullbackMetric")

    @property
    def dtype_and_device(self) -> tuple[torch.dtype | None, torch.device | None]:
        """Those of the metric's parameters, None where it has none."""
        return None, None

    def points_at_once(self, points: Tensor) -> int:
        """How many points like those of ``points (..., d)`` are evaluated at once."""
        return _CHUNK_OF_CALLABLES

    def curves_at_once(self, points: Tensor) -> int:
        """How many curves like those of ``points (B, N + 1, d)`` are worked on at once, with their derivatives kept."""
        n_chunks = _CHUNKS_KEPT_CPU if points.device.type == "cpu" else _CHUNKS_KEPT_GPU
        return max(1, min(n_chunks * self.points_at_once(points), _POINTS_KEPT) // points.shape[-2])

    def blocks(self, points: Tensor, *, multiple_of: int = 1) -> Iterator[tuple[slice, slice]]:
        """Slices over curves and points of ``(B, N + 1, d)`` that fit a chunk; neighbouring pieces of one curve share
        an end point, and a piece's number of segments is a ``multiple_of`` so many."""
        n_curves, n_points, _ = points.shape
        size = self.points_at_once(points)
        n_segments = min(n_points - 1, max((size - 1) // multiple_of, 1) * multiple_of)
        curves = max(1, size // (n_segments + 1))
        for first in range(0, n_curves, curves):
            for left in range(0, n_points - 1, n_segments):
                yield slice(first, first + curves), slice(left, min(left + n_segments, n_points - 1) + 1)

    def squared_segments(self, points: Tensor) -> Tensor:
        """Squared Riemannian length of every segment of curves ``(..., N + 1, d)``: ``(..., N)``, differentiable.

        ``D^T M(m) D`` with the segment D and its midpoint m, which is of second order in the segments.
        """
        step = points.diff(dim=-2)
        M = self(points[..., :-1, :] + step / 2)
        # a metric that rounds to slightly indefinite must not give a negative square
        return torch.einsum("...i,...ij,...j->...", step, M, step).clamp_min(0)

    def squared_segments_in_blocks(self, points: Tensor) -> Tensor:
        """``squared_segments`` of ``(..., N + 1, d)``, with flat memory where no gradient is asked for."""
        flat = points.reshape(-1, *points.shape[-2:])
        if len(flat) == 0:  # no point to try a metric at
            out = flat.diff(dim=1).sum(-1)
        elif torch.is_grad_enabled() and points.requires_grad:
            out = self.squared_segments(flat)
        else:
            out = flat.new_empty(flat.shape[0], flat.shape[1] - 1)
            with torch.no_grad():
                for curves, piece in self.blocks(flat):
                    out[curves, piece.start : piece.stop - 1] = self.squared_segments(flat[curves, piece])
        return out.reshape(*points.shape[:-2], out.shape[-1])

    def segment_lengths(self, points: Tensor) -> Tensor:
        """Riemannian length of every segment of curves ``(..., N + 1, d)``: ``(..., N)``."""
        return _safe_sqrt(self.squared_segments_in_blocks(points))

    def length(self, points: Tensor) -> Tensor:
        """Riemannian length of curves ``(..., N + 1, d)``: ``(...)``."""
        return self.segment_lengths(points).sum(-1)

    def nested_lengths(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Riemannian length of every segment of curves ``(B, 4 K + 1, d)``, and the lengths of the curves through every
        second and through every fourth point: ``(B, 4 K)``, ``(B,)``, ``(B,)``. No gradients."""
        return self.segment_lengths(points), *(self.length(points[:, ::stride]) for stride in (2, 4))

    def chord(self, start: Tensor, end: Tensor) -> Tensor:
        """What no curve between points ``(B, d)`` is shorter than: ``(B,)``, zero where nothing is known."""
        return torch.zeros_like(start[:, 0])

    def rounding_floor(self, z: Tensor) -> Tensor:
        """The length ``(B,)`` that rounding near ``z (B, d)`` may give to one segment."""
        largest = self(z).diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0).sqrt()
        return torch.finfo(z.dtype).eps * (largest * z.norm(dim=-1) + self.image_norm(z))

    def image_norm(self, z: Tensor) -> Tensor:
        """Norm ``(B,)`` of the images of ``z (B, d)``, zero where there are none."""
        return torch.zeros_like(z[:, 0])


class ExpectedMetric(RiemannianMetric):
    """A ``PullbackMetric`` that is not the pull-back of one map, but the expectation of such metrics (Eq. 4)."""

    def __init__(self, metric: PullbackMetric):
        self.source = metric
        self.std, self.features = metric.std, metric.features
        self.unchecked = metric.unchecked
        self.points_at_once = metric.chunk_size

    def __call__(self, z: Tensor) -> Tensor:
        """The tensors ``(..., d, d)`` at ``z (..., d)``, their finiteness checked."""
        return self.source.tensor(z)

    def try_at(self, z: Tensor) -> None:
        """Try the maps, at the first of the points, where that was not done: before anybody looks into them."""
        self.points_at_once(z)

    @property
    def latent_dim(self) -> int:
        """The latent dimension d; TypeError where the maps do not declare it."""
        return self.source.latent_dim

    @property
    def dtype_and_device(self) -> tuple[torch.dtype | None, torch.device | None]:
        """Those of the first parameter, None where there is none."""
        return self.source.kind


class ImmersedMetric(ExpectedMetric):
    """The pull-back of one map, its immersion, which can be evaluated itself."""

    repeatable = True

    def __init__(self, metric: PullbackMetric):
        super().__init__(metric)
        self.immersion, self.tangents = metric.images, metric.tangents
        self.tangents_and_bending = metric.tangents_and_bending
        one = (metric.mean,) if metric.features is None else (metric.mean, metric.features)
        self.maps = (one,) if metric.std is None else (one, (metric.std,))

    def squared_segments(self, points: Tensor) -> Tensor:
        """The squared chords of the images: one evaluation per point, and no Jacobian."""
        return self.immersion(points).diff(dim=-2).square().sum(-1)

    @torch.no_grad()
    def nested_lengths(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three from the same images."""
        n_curves, n_points, _ = points.shape
        fine, by_two, by_four = points.new_empty(n_curves, n_points - 1), *points.new_zeros(2, n_curves)
        for curves, piece in self.blocks(points, multiple_of=4):
            chords = self.immersion(points[curves, piece]).diff(dim=1)
            fine[curves, piece.start : piece.stop - 1] = chords.norm(dim=-1)
            chords = chords[:, ::2] + chords[:, 1::2]
            by_two[curves] += chords.norm(dim=-1).sum(-1)
            by_four[curves] += (chords[:, ::2] + chords[:, 1::2]).norm(dim=-1).sum(-1)
        return fine, by_two, by_four

    def chord(self, start: Tensor, end: Tensor) -> Tensor:
        """The distance ``(B,)`` between the images of points ``(B, d)``."""
        return (self.immersion(end) - self.immersion(start)).norm(dim=-1)

    def image_norm(self, z: Tensor) -> Tensor:
        """Norm ``(B,)`` of the images of ``z (B, d)``."""
        return self.immersion(z).norm(dim=-1)


def as_metric(metric: Metric | RiemannianMetric) -> RiemannianMetric:
    """The one interface to what a caller brings, and the only place that asks what kind of metric it is."""
    if isinstance(metric, RiemannianMetric):
        return metric
    if isinstance(metric, PullbackMetric):
        return ImmersedMetric(metric) if metric.has_immersion else ExpectedMetric(metric)
    if not callable(metric):
        raise TypeError(f"metric: got {type(metric).__name__}, expected a PullbackMetric or a callable z -> M")
    return RiemannianMetric(metric)


def _safe_sqrt(x: Tensor) -> Tensor:
    """The root, with gradient zero instead of NaN at zero."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
