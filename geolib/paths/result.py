"""What ``geodesic()`` returns: curves with their lengths, residuals and statuses, and what a status means."""

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

from geolib.paths.interpolant import Curve


class Status(IntEnum):
    """The state of one curve; ``Status(code).sentence`` says what it means and what to do."""

    CONVERGED = 0
    SAME_POINT = 1
    MAX_STEPS = 2
    MAX_CONTROL_POINTS = 3
    START_KEPT = 4
    SINGULAR = 5
    UNRESOLVED = 6
    NOT_GEODESIC = 7
    CONVERGED_FROM_LINE = 8
    BEST_OF_ITS_KIND = 9
    DIVERGED = 10
    MAX_NODES = 11
    SADDLE = 12
    NOT_FINITE = 13

    @property
    def sentence(self) -> str:
        """What happened, and the remedy."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "the curve is a geodesic to the tolerance, and no curve beside it is shorter",
    Status.SAME_POINT: "start and end are the same point, whose distance is zero",
    Status.MAX_STEPS: "the curve was still getting shorter at the last step; raise max_steps",
    Status.MAX_CONTROL_POINTS: "the curve was still getting shorter with its last knot; raise max_control_points",
    Status.START_KEPT: "no curve shorter than the straight line or the first guess was found, and that is no geodesic; "
    "raise n_segments or start from other points",
    Status.SINGULAR: "the metric is zero along the whole straight line, so its length says nothing",
    Status.UNRESOLVED: "the metric changes within less than a segment of the curve; raise n_segments",
    Status.NOT_GEODESIC: "the curve stopped getting shorter before it satisfied the geodesic equation; raise "
    "n_segments, or accept it where the generator has kinks other than those of a chain of affine layers and ReLU, at "
    "which the equation does not hold",
    Status.CONVERGED_FROM_LINE: "the curve is a geodesic to the tolerance, but began as the straight line, as the "
    "graph does not connect start and end; give more latents",
    Status.BEST_OF_ITS_KIND: "the shortest curve that this method can draw, which is no geodesic to the tolerance; "
    "begin another method from its points (init=g.points)",
    Status.DIVERGED: 'the method ran away from its first guess; begin nearer (init="best"), or use another method',
    Status.MAX_NODES: "the equation needs more nodes than allowed; raise max_nodes",
    Status.SADDLE: "the curve is a geodesic to the tolerance, but becomes shorter where it is bent aside, and the "
    "method came back to it from either side; use another method or begin from other points",
    Status.NOT_FINITE: "the metric is not finite (NaN or inf) on the straight line or where the method was led, so no "
    "more is known than the shortest curve before that; begin elsewhere (init), use another method, or see what the "
    "metric does there",
}


_CONVERGED = (Status.CONVERGED, Status.CONVERGED_FROM_LINE, Status.SAME_POINT)


class GeodesicError(RuntimeError):
    """Some curves of a batch did not converge, and the caller asked for all or nothing."""


@dataclass(frozen=True)
class Geodesic:
    """Curves between pairs of points, measured. Shapes ``(...)`` are the broadcast batch shape of start and end."""

    points: Tensor
    """``(..., N + 1, d)``, equally spaced in length; first and last exactly start and end"""
    curve: Curve
    """the smooth curves: ``g.curve(t)`` is ``(..., T, d)`` for ``t (T,)`` in [0, 1], at a speed that may vary, and
    ``g.curve.velocity(t)`` its derivative. A polygon, on a map with kinks, is at rest at its corners"""
    length: Tensor
    """``(...)``, Riemannian; never more than ``line_length``. NaN where the metric is not finite on the line
    (``NOT_FINITE``). With a gradient where ``differentiable`` asked for one"""
    line_length: Tensor
    """``(...)``, of the straight line; NaN where the metric is not finite on it"""
    lower_bound: Tensor
    """``(...)``, which no curve from start to end is shorter than: the distance between their images in the output
    space. So ``length / lower_bound`` bounds how many times longer than the shortest curve this one can be. It is 0,
    which says nothing, for a metric that has no immersion (Eq. 4, a callable)"""
    residual: Tensor
    """``(...)``, ``geodesic_residual`` of the points, or of up to 8 times as many where more segments were needed, or
    of all corners where the map is a chain of affine layers and ReLU; NaN for a pair that is lost (``NOT_FINITE``)"""
    index: Tensor
    """``(...)``, ``geodesic_index`` of the same points: 0 for a geodesic that is a local minimum. It is 0 too where no
    curve that was tried in these directions is shorter"""
    status: Tensor
    """``(...)``, codes of ``Status``"""
    n_steps: Tensor
    """``(...)``, steps of all attempts; 0 for a pair that is lost"""

    @property
    def improvement(self) -> Tensor:
        """``(line_length - length) / line_length``, ``(...)``; 0 where the line has no length, NaN where that is not
        finite; without a gradient."""
        has_length = self.line_length != 0
        return torch.where(has_length, 1 - self.length.detach() / torch.where(has_length, self.line_length, 1.0), 0.0)

    @property
    def converged(self) -> Tensor:
        """``(...)``, whether the curve is a geodesic to the tolerance, and no curve beside it is shorter."""
        return torch.isin(self.status, torch.tensor(_CONVERGED, device=self.status.device))

    def report(self) -> str:
        """One line for each status that occurs: how many curves, and what it means."""
        counts = Counter(self.status.reshape(-1).tolist())
        return "\n".join(f"{count} of {self.status.numel()}: {Status(code).sentence}" for code, count in counts.items())


def joined(parts: list[Geodesic], rows: Tensor, batch: torch.Size) -> Geodesic:
    """All parts, whose curves are those of ``rows (B,)``, as one batch of shape ``batch``."""
    places = rows.split([len(part.length) for part in parts])

    def put(values: Callable[[Geodesic], Tensor]) -> Tensor:
        out = None
        for part, where in zip(parts, places, strict=True):
            value = values(part)
            out = value.new_empty(len(rows), *value.shape[1:]) if out is None else out
            out[where] = value
        return out.reshape(batch + out.shape[1:])

    values = {f.name: put(operator.attrgetter(f.name)) for f in fields(Geodesic) if f.name != "curve"}
    return Geodesic(curve=Curve.joined([part.curve for part in parts], places).reshaped(batch), **values)
