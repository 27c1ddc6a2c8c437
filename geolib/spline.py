"""Cubic B-splines that interpolate their end points: basis, derivative, fit and knot insertion."""

import torch
from torch import Tensor

from geolib import checks

ORDER = 4  # cubic


def uniform_knots(n_control: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """The knot vector ``(n_control + 4,)`` on [0, 1] with four-fold ends and equal intervals between them."""
    checks.integer("n_control", n_control, at_least=ORDER)
    inner = torch.linspace(0, 1, n_control - ORDER + 2, dtype=dtype, device=device)
    return torch.cat([inner.new_zeros(ORDER - 1), inner, inner.new_ones(ORDER - 1)])


def basis(knots: Tensor, t: Tensor, *, order: int = ORDER) -> Tensor:
    r"""All basis functions :math:`N_{i,k}(t)` by the Cox-de Boor recursion.

    Args:
        knots: nondecreasing knots ``(K,)``.
        t: parameters ``(T,)`` within the knots' range; the last knot belongs to the last interval.
        order: k, the degree plus one.

    Returns:
        ``(T, K - order)``; rows sum to one for clamped knots.

    Source:
        Michelis & Becker 2021, App. A.
    """
    t = t.unsqueeze(-1)
    last = (knots < knots[-1]).nonzero().max()  # the last interval that is not empty, closed on the right
    N = ((knots[:-1] <= t) & (t < knots[1:])).to(knots.dtype)
    N[..., last] = torch.where(t[..., 0] >= knots[-1], 1.0, N[..., last])
    for k in range(2, order + 1):
        left = _ratio(t - knots[:-k], knots[k - 1 : -1] - knots[:-k])
        right = _ratio(knots[k:] - t, knots[k:] - knots[1 : 1 - k])
        N = left * N[..., :-1] + right * N[..., 1:]
    return N


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, or zero with zero gradient over an empty knot interval (denominator 0)."""
    empty = denominator == 0
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))


class CubicBSpline:
    r"""A batch of cubic B-spline curves :math:`C(t) = \sum_i N_{i,4}(t) P_i` on [0, 1].

    Each curve starts at its first control point and ends at its last.

    Args:
        control_points: ``(..., n + 1, d)`` with n >= 3.
        knots: ``(n + 5,)``, nondecreasing from 0 to 1 with four-fold ends, shared by the batch; uniform by default.

    Raises:
        TypeError, ValueError: for points or knots of the wrong type, shape or range.

    Source:
        Michelis & Becker 2021, App. A.
    """

    def __init__(self, control_points: Tensor, knots: Tensor | None = None):
        checks.latent_points("control_points", control_points, min_points=ORDER)
        n_control = control_points.shape[-2]
        if knots is None:
            knots = uniform_knots(n_control, dtype=control_points.dtype, device=control_points.device)
        checks.same_kind("knots", knots, "control_points", control_points)
        if knots.shape != (n_control + ORDER,):
            raise ValueError(f"knots: got shape {tuple(knots.shape)}, expected ({n_control + ORDER},)")
        ends_meet = bool((knots[:ORDER] == 0).all()) and bool((knots[-ORDER:] == 1).all())
        if not ends_meet or bool((knots.diff() < 0).any()):
            raise ValueError(f"knots: got {knots.tolist()}, expected nondecreasing from four zeros to four ones")
        self.control_points = control_points
        self.knots = knots

    @classmethod
    def line(cls, start: Tensor, end: Tensor, knots: Tensor | None = None) -> "CubicBSpline":
        """The straight line from ``start`` to ``end`` ``(..., d)`` at constant speed; 4 control points by default."""
        if knots is not None:
            checks.same_kind("knots", knots, "start", start)
        curve = line(start, end, knots)
        return cls(curve.control_points, curve.knots)

    @classmethod
    def fit(cls, points: Tensor, *, n_control: int | None = None) -> "CubicBSpline":
        """The least-squares spline through ``points``, which interpolates the first and the last exactly.

        Args:
            points: ``(..., N + 1, d)``, taken at equal steps of t; N >= 1.
            n_control: number of control points, at least 4; by default one per point, so that the spline interpolates.
        """
        checks.latent_points("points", points, min_points=2)
        if n_control is not None:
            checks.integer("n_control", n_control, at_least=ORDER)
        return fitted(points, n_control)

    @classmethod
    def trusted(cls, control_points: Tensor, knots: Tensor) -> "CubicBSpline":
        """The spline of control points and knots that need no check."""
        curve = cls.__new__(cls)
        curve.control_points, curve.knots = control_points, knots
        return curve

    def __call__(self, t: Tensor) -> Tensor:
        """Points ``(..., T, d)`` at parameters ``t (T,)`` in [0, 1]."""
        return basis(self.knots, checks.parameters(t, self.control_points)) @ self.control_points

    def __getitem__(self, index: Tensor) -> "CubicBSpline":
        """The curves that ``index`` selects along the first batch dimension."""
        return CubicBSpline.trusted(self.control_points[index], self.knots)

    def each(self, t: Tensor) -> Tensor:
        """Points ``(B, T, d)`` of B curves, each at its own parameters ``t (B, T)``."""
        t = checks.parameters_of_each(t, self.control_points)
        N = basis(self.knots, t.reshape(-1)).reshape(*t.shape, -1)
        return N @ self.control_points

    def velocity(self, t: Tensor) -> Tensor:
        r"""The derivative ``(..., T, d)``: :math:`C'(t) = 3 \sum_i N_{i+1,3}(t) (P_{i+1} - P_i) / (t_{i+4} - t_{i+1})`.

        Source:
            Michelis & Becker 2021, App. A.
        """
        gaps = (self.knots[ORDER:-1] - self.knots[1:-ORDER]).unsqueeze(-1)
        steps = _ratio(self.control_points.diff(dim=-2), gaps)
        return (ORDER - 1) * basis(self.knots[1:-1], checks.parameters(t, self.control_points), order=ORDER - 1) @ steps

    def insert_knot(self, at: Tensor | float | None = None) -> "CubicBSpline":
        """The same curve with one more control point.

        Args:
            at: the new knot, inside (0, 1); by default the middle of the (first) largest interval.

        Source:
            Michelis & Becker 2021, App. A (Boehm's rule).
        """
        if at is None:
            gaps = self.knots.diff()
            j = int((gaps >= gaps.max() * (1 - 1e-6)).nonzero()[0])  # equal intervals may differ by rounding
            new = (self.knots[j] + self.knots[j + 1]) / 2
        else:
            new = torch.as_tensor(at).to(self.knots)
            if not 0 < float(new) < 1:
                raise ValueError(f"at: got {float(new):g}, expected a number between 0 and 1")
            j = int((self.knots <= new).nonzero().max())
        P = self.control_points
        moved = torch.arange(j - ORDER + 2, j + 1, device=P.device)
        a = _ratio(new - self.knots[moved], self.knots[moved + ORDER - 1] - self.knots[moved]).unsqueeze(-1)
        blend = (1 - a) * P[..., moved - 1, :] + a * P[..., moved, :]
        control_points = torch.cat([P[..., : j - ORDER + 2, :], blend, P[..., j:, :]], dim=-2)
        knots = torch.cat([self.knots[: j + 1], new.reshape(1), self.knots[j + 1 :]])
        return CubicBSpline.trusted(control_points, knots)


def line(start: Tensor, end: Tensor, knots: Tensor | None = None) -> CubicBSpline:
    """``CubicBSpline.line`` of points that need no check."""
    if knots is None:
        knots = uniform_knots(ORDER, dtype=start.dtype, device=start.device)
    # control points at the means of each basis function's inner knots give C(t) = t (Greville)
    greville = knots.unfold(0, ORDER - 1, 1)[1:-1].mean(-1, keepdim=True)
    return CubicBSpline.trusted(torch.lerp(start.unsqueeze(-2), end.unsqueeze(-2), greville), knots)


def fitted(points: Tensor, n_control: int | None = None) -> CubicBSpline:
    """``CubicBSpline.fit`` of points that need no check."""
    n_points = points.shape[-2]
    if n_points < ORDER:  # two or three points determine a line or a parabola, which a cubic represents exactly
        points, n_points = _raise_degree(points), ORDER
    n_control = n_points if n_control is None else min(n_control, n_points)
    t = torch.linspace(0, 1, n_points, dtype=points.dtype, device=points.device)
    knots = (
        _interpolation_knots(t) if n_control == n_points else uniform_knots(n_control, dtype=t.dtype, device=t.device)
    )
    N = basis(knots, t)
    ends = points[..., [0, -1], :]
    inner = torch.linalg.pinv(N[1:-1, 1:-1]) @ (points[..., 1:-1, :] - N[1:-1, [0, -1]] @ ends)
    return CubicBSpline.trusted(torch.cat([ends[..., :1, :], inner, ends[..., 1:, :]], dim=-2), knots)


def _raise_degree(points: Tensor) -> Tensor:
    """Four points at equal steps on the line or parabola through two or three points at equal steps."""
    t = torch.linspace(0, 1, ORDER, dtype=points.dtype, device=points.device).unsqueeze(-1)
    first, last = points[..., :1, :], points[..., -1:, :]
    four = torch.lerp(first, last, t)
    if points.shape[-2] == 3:
        four = four + 4 * t * (1 - t) * (points[..., 1:2, :] - (first + last) / 2)
    return four


def _interpolation_knots(t: Tensor) -> Tensor:
    """Knots at the data's parameters, without the second and the last but one ("not-a-knot" conditions)."""
    return torch.cat([t.new_zeros(ORDER), t[2:-2], t.new_ones(ORDER)])
