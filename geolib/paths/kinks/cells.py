"""Maps with kinks, which are smooth on each of the cells that these separate."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from geolib import jacobian
from geolib.metric import PullbackMetric
from geolib.riemannian import RiemannianMetric

_PIECES = 2048  # most cells that one segment crosses
_SAMPLES = 256
_ROUNDED = 0.8  # power of the machine precision that is no height
_CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class _Branch:
    """A chain of affine layers, ReLU and leaky ReLU, and a smooth map behind it."""

    layers: list[nn.Module]
    tail: nn.Sequential
    width: int
    """of what goes from one to the other, in a row"""

    @classmethod
    def of(cls, functions: tuple[Callable, ...], like: Tensor, *, alone: bool) -> "_Branch | None":
        """The functions that follow one another; ``alone`` only distances between their images count."""
        split = jacobian.kinked_chain(*functions)
        if split is None:
            return None
        layers, behind = split
        if alone and layers and not behind and type(layers[-1]) is nn.Linear:
            layers = [*layers[:-1], _isometric(layers[-1])]
        shape = nn.Sequential(*layers)(like.reshape(-1, like.shape[-1])[:1]).shape[1:]
        if behind and len(shape) > 1:
            behind = [nn.Unflatten(1, shape).eval(), *behind]
        return cls(layers, nn.Sequential(*behind), math.prod(shape))


class Cells:
    """One map, or two side by side, that are affine but for a smooth map behind on each cell between their kinks."""

    def __init__(self, branches: list[_Branch]):
        self.branches = branches
        self.affine = not any(len(branch.tail) for branch in branches)
        """whether there is nothing behind, so that they are affine"""
        self._widths = [branch.width for branch in branches]

    @classmethod
    def of(cls, metric: RiemannianMetric, like: Tensor) -> "Cells | None":
        """Those of a metric's immersion at points like ``like (..., d)``, or None where it has no kinks or others."""
        if metric not in _KNOWN:
            _KNOWN[metric] = cls._of(metric, like)
        return _KNOWN[metric]

    @classmethod
    def _of(cls, metric: RiemannianMetric, like: Tensor) -> "Cells | None":
        branches = [_Branch.of(functions, like, alone=len(metric.maps) == 1) for functions in metric.maps]
        if None in branches:
            return None
        kinks = [jacobian.kink(layer) for branch in branches for layer in branch.layers]
        return cls(branches) if any(slope is not None for slope in kinks) else None

    def smooth(self, width: float, like: Tensor) -> PullbackMetric:
        """The same with kinks rounded, over a ``width`` relative to the heights of standard normal points."""
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(_SAMPLES, like.shape[-1], generator=generator).to(like)
        maps = []
        for branch in self.branches:
            x, layers = z, []
            for layer in branch.layers:
                slope = jacobian.kink(layer)
                if slope is not None:
                    scale = float(x.square().mean().sqrt().clamp_min(torch.finfo(x.dtype).tiny))
                    layers.append(jacobian.SmoothKink(slope, width * scale))
                    x = torch.where(x > 0, x, slope * x)
                else:
                    x = layer(x)
                    layers.append(layer)
            maps.append(nn.Sequential(*layers, nn.Flatten().eval(), *branch.tail))
        return PullbackMetric(*maps)

    def at(self, z: Tensor, tangents: Tensor, *, ahead: bool = False) -> "Local":
        """What there is at ``z (n, d)``, with derivatives along ``tangents (k, n, d)``.

        A point on a kink is below it or, ``ahead``, where the first tangent leads.
        """
        heights, sides, slopes, values, derivatives = [], [], [], [], []
        for branch in self.branches:
            x, along = z, tangents
            for layer in branch.layers:
                slope = jacobian.kink(layer)
                if slope is None:
                    x, along = jacobian.push_forward(layer, x, along)
                    continue
                flat = x.flatten(1)
                # shortest curves can run along a kink, and rounding must not put them on either side
                floor = torch.finfo(x.dtype).eps ** _ROUNDED * flat.abs().amax(-1, keepdim=True)
                above = flat > floor
                if ahead:
                    above = above | ((flat >= -floor) & (along[0].flatten(1) > floor))
                heights.append(flat)
                sides.append(above)
                slopes.append(along.flatten(2))
                factor = above.to(x.dtype) if slope == 0 else torch.where(above, 1.0, slope).to(x.dtype)
                factor = factor.reshape(x.shape)
                x, along = factor * x, factor * along
            values.append(x.flatten(1))
            derivatives.append(along.flatten(2))
        return Local(heights, _beside(sides), slopes, _beside(values), _beside(derivatives))

    def image(self, values: Tensor) -> Tensor:
        """Of the chains' values ``(..., C)``: ``(..., D)``."""
        flat = values.reshape(-1, values.shape[-1]).split(self._widths, -1)
        parts = [branch.tail(x).flatten(1) for branch, x in zip(self.branches, flat, strict=True)]
        return _beside(parts).unflatten(0, values.shape[:-1])

    def push_forward(self, values: Tensor, tangents: Tensor) -> Tensor:
        """The derivatives ``(k, n, D)`` of the image at the chains' values ``(n, C)`` along ``tangents (k, n, C)``."""
        split = self._split(values, tangents)
        return _beside([jacobian.push_forward(tail, x, along)[1].flatten(2) for tail, x, along in split])

    def push_forward_twice(self, values: Tensor, tangents: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``push_forward``, and what takes cotangents ``(n, D)`` to the blocks ``(n, k, k)`` of second derivatives."""
        images, derivatives, pulls = [], [], []
        for tail, x, along in self._split(values, tangents):
            image, behind, pull = jacobian.push_forward_twice(tail, x, along)
            images.append(image)
            derivatives.append(behind.flatten(2))
            pulls.append(pull)

        def blocks(cotangent: Tensor) -> Tensor:
            out = cotangent.new_zeros(values.shape[0], tangents.shape[0], tangents.shape[0])
            parts = cotangent.split([x.shape[-1] for x in derivatives], -1)
            for image, pull, part in zip(images, pulls, parts, strict=True):
                found = pull(part.reshape(image.shape))[1]
                out = out if found is None else out + found
            return out

        return _beside(derivatives), blocks

    def _split(self, values: Tensor, tangents: Tensor) -> Iterator[tuple[nn.Sequential, Tensor, Tensor]]:
        tails = (branch.tail for branch in self.branches)
        return zip(tails, values.split(self._widths, -1), tangents.split(self._widths, -1), strict=True)

    def curves_at_once(self, points: Tensor) -> int:
        """How many curves like those of ``points (B, n + 1, d)`` are worked on at once, with their derivatives."""
        z = points[:1, 0]
        here = self.at(z, z.unsqueeze(0))
        d = points.shape[-1]
        size = here.sides.numel() + here.values.numel() + self.image(here.values).numel()
        return max(1, _CHUNK_BYTES // (points.shape[1] * (d + 1) * size * points.element_size()))

    def pieces(self, start: Tensor, end: Tensor) -> "Pieces":
        """The pieces in which the kinks cut the segments from ``start`` to ``end (m, d)``."""
        chord = end - start
        least = torch.finfo(start.dtype).eps ** 0.5 / 100
        t = start.new_zeros(len(start))
        active = (chord != 0).any(-1).nonzero()[:, 0]
        reached = t.clone()
        found = []
        for _ in range(_PIECES):
            if not len(active):
                break
            here = t[active] + least
            v = chord[active]
            local = self.at(start[active] + here.unsqueeze(-1) * v, v.unsqueeze(0), ahead=True)
            nearest = here + local.nearest()
            last = nearest >= 1 - 10 * least
            kept = (last | (nearest > 10 * least)).nonzero()[:, 0]
            rows, here, end = active[kept], here[kept], nearest.masked_fill(last, 1.0)[kept]
            begin = reached[rows]
            value, slope, sides = local.values, local.derivatives[0], local.sides
            if len(kept) < len(active):
                value, slope, sides = value[kept], slope[kept], sides[kept]
            before = torch.addcmul(value, (begin - here).unsqueeze(-1), slope)
            after = torch.addcmul(value, (end - here).unsqueeze(-1), slope)
            found.append((rows, begin, end, sides, before, after))
            reached[rows] = end
            t[active] = nearest
            active = active[~last]
        if not found:
            local = self.at(start[:0], start[None, :0])
            found = [(t[:0].long(), t[:0], t[:0], local.sides, local.values, local.values)]
        if len(found) == 1:
            return Pieces(*found[0])
        parts = [torch.cat(group) for group in zip(*found, strict=True)]
        order = parts[0].argsort(stable=True)
        return Pieces(*(part[order] for part in parts))


_KNOWN: WeakKeyDictionary[RiemannianMetric, Cells | None] = WeakKeyDictionary()  # a metric lives as long as one call


@dataclass(frozen=True)
class Local:
    """A map at n points, and its derivatives along k tangents there."""

    heights: list[Tensor]
    """over the kinks, (n, h) for each layer of H in all"""
    sides: Tensor
    """(n, H), whether that is above"""
    slopes: list[Tensor]
    """(k, n, h) each, derivatives of the heights"""
    values: Tensor
    """(n, C), of the chains"""
    derivatives: Tensor
    """(k, n, C)"""

    def nearest(self) -> Tensor:
        """How often the first tangent leads to the nearest kink ahead ``(n,)``, infinite where there is none."""
        out = torch.full_like(self.values[:, 0], torch.inf)
        for height, slope in zip(self.heights, self.slopes, strict=True):
            ahead = -height / slope[0]
            out = torch.minimum(out, ahead.masked_fill_(~(ahead > 0), torch.inf).amin(-1))
        return out

    def slopes_of(self, points: Tensor, kinks: Tensor) -> Tensor:
        """The derivatives ``(m, k)`` of the heights of ``points (m,)`` over one kink each, of ``kinks (m,)``."""
        out = self.values.new_zeros(len(points), len(self.derivatives))
        first = 0
        for slope in self.slopes:
            here = ((kinks >= first) & (kinks < first + slope.shape[-1])).nonzero()[:, 0]
            out[here] = slope[:, points[here], kinks[here] - first].mT
            first += slope.shape[-1]
        return out


@dataclass(frozen=True)
class Pieces:
    """Pieces of segments between kinks, in the order of the segments and in that along each."""

    segment: Tensor
    """(p,)"""
    start: Tensor
    """(p,), as a share of the segment"""
    end: Tensor
    """(p,)"""
    sides: Tensor
    """(p, H), whether they are above each kink"""
    before: Tensor
    """(p, C), the chains' values at the start"""
    after: Tensor
    """(p, C), and at the end"""


def _beside(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _isometric(layer: nn.Linear) -> nn.Linear:
    """A layer with as many outputs as inputs at most, whose images are as far apart: without what turns them."""
    if layer.out_features <= layer.in_features:
        return layer
    reduced = nn.Linear(layer.in_features, layer.in_features, bias=False, device="meta")
    reduced.weight = nn.Parameter(torch.linalg.qr(layer.weight.detach(), mode="r").R, requires_grad=False)
    return reduced


def pieces_of(cells: Cells, points: Tensor) -> tuple[Pieces, Tensor]:
    """Those of the curves that are straight between ``points (B, n + 1, d)``, and the curve ``(p,)`` of each."""
    pieces = cells.pieces(points[:, :-1].flatten(0, 1), points[:, 1:].flatten(0, 1))
    return pieces, pieces.segment // (points.shape[1] - 1)


def packed(ends: Tensor, curve: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """The ``ends (B, 2, k)`` with ``inner (m, k)`` of the ascending ``curve (m,)`` between, and their number ``(B,)``.

    Behind the last one of each, its end is repeated.
    """
    n = torch.bincount(curve, minlength=len(ends))
    rank = torch.arange(len(curve), device=curve.device) - (n.cumsum(0) - n)[curve]
    out = ends[:, 1:].repeat(1, int(n.max()) + 2, 1)
    out[:, 0] = ends[:, 0]
    out[curve, rank + 1] = inner
    return out, n
