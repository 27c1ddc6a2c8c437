"""What ``geodesic()`` returns: curves, measured, certified, and truthful about how each ended."""

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from geolib.paths.status import Status
from geolib.spline import CubicBSpline, common_knots

_CONVERGED = (Status.CONVERGED, Status.CONVERGED_FROM_LINE, Status.SAME_POINT)


class GeodesicError(RuntimeError):
    """Some curves of a batch did not converge, and the caller asked for all or nothing."""


@dataclass(frozen=True)
class Geodesic:
    """Curves between pairs of points, measured. Shapes ``(...)`` are the broadcast batch shape of start and end."""

    points: Tensor
    """``(..., N + 1, d)``, equally spaced in length; first and last exactly start and end"""
    curve: CubicBSpline
    """the smooth curves: ``g.curve(t)`` is ``(..., T, d)`` for ``t (T,)`` in [0, 1]"""
    length: Tensor
    """``(...)``, Riemannian; never more than ``line_length``"""
    line_length: Tensor
    """``(...)``, of the straight line"""
    residual: Tensor
    """``(...)``, ``geodesic_residual`` of the points, or where the tolerance asked for it of 2, 4 or 8 times as many"""
    status: Tensor
    """``(...)``, codes of ``Status``"""
    n_steps: Tensor
    """``(...)``, steps that the solver took"""

    @property
    def improvement(self) -> Tensor:
        """``(line_length - length) / line_length``, ``(...)``; 0 where the line has no length."""
        has_length = self.line_length > 0
        return torch.where(has_length, 1 - self.length / torch.where(has_length, self.line_length, 1.0), 0.0)

    @property
    def converged(self) -> Tensor:
        """``(...)``, whether the solver met its tolerance."""
        return torch.isin(self.status, torch.tensor(_CONVERGED, device=self.status.device))

    def report(self) -> str:
        """One line for each status that occurs: how many curves, and what it means."""
        counts = Counter(self.status.reshape(-1).tolist())
        return "\n".join(f"{count} of {self.status.numel()}: {Status(code).sentence}" for code, count in counts.items())


def joined(parts: list[Geodesic], rows: Tensor, batch: torch.Size) -> Geodesic:
    """All parts, whose curves are those of ``rows (B,)``, as one batch of shape ``batch``."""
    knots = common_knots([part.curve.knots for part in parts])

    def put(values: Callable[[Geodesic], Tensor]) -> Tensor:
        # a part at a time, as one curve's knots are everyone's: control points can be most of the memory there is
        out = None
        for part, places in zip(parts, rows.split([len(part.length) for part in parts]), strict=True):
            value = values(part)
            out = value.new_empty(len(rows), *value.shape[1:]) if out is None else out
            out[places] = value
        return out.reshape(batch + out.shape[1:])

    values = {f.name: put(operator.attrgetter(f.name)) for f in fields(Geodesic) if f.name != "curve"}
    return Geodesic(curve=CubicBSpline(put(lambda part: part.curve.with_knots(knots).control_points), knots), **values)
