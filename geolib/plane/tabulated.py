"""A metric of the plane that is evaluated once on a grid and interpolated afterwards."""

import torch
from torch import Tensor

from geolib import checks
from geolib.riemannian import Metric, as_metric

_N_PROBES = 2000
# With 784 outputs, chunks of 891 points took 1.4 to 2.3 times as long as those of 200 to 400, which reuse
# their memory sooner.
_POINTS_AT_ONCE_CPU = 256


class TabulatedMetric:
    """The result of ``tabulate``: a metric ``z (..., 2) -> M (..., 2, 2)`` for every function of the package."""

    error: float
    """the largest relative error of the tensor at the points where it was compared"""
    typical_error: float
    """the median of these errors"""
    logs: Tensor
    """``(n + 1, n + 1, 3)``, x first: m, p and b at the nodes, where log M is [[m + p, b], [b, m - p]]"""

    def __init__(self, nodes: Tensor, lower: Tensor, upper: Tensor):
        n = len(nodes) - 1
        self.lower, self.upper, self.resolution = lower, upper, n
        # Each row of the table holds the values at all nodes of one cell, because at few points the number of
        # operations decides the time. The far nodes come first, and a ring of NaN cells surrounds the box.
        logs = self.logs = _logarithm(nodes)
        table = logs.new_full((n + 2, n + 2, 12), torch.nan)
        table[1:-1, 1:-1] = torch.cat([logs[i : i + n, j : j + n] for i in (1, 0) for j in (1, 0)], dim=-1)
        self._table = table.flatten(0, 1)
        scale = n / (upper - lower)
        # the upper edge belongs to the box
        self._scale = torch.where((upper - lower) * scale > n, torch.nextafter(scale, torch.zeros_like(scale)), scale)
        self._edges = torch.arange(n + 1, dtype=lower.dtype, device=lower.device)
        self._edges[-1] = torch.nextafter(self._edges[-1], self._edges[-1] + 1)

    def __call__(self, z: Tensor) -> Tensor:
        """The metric tensor at ``z``.

        Args:
            z: latent points ``(..., 2)`` with the table's dtype and device.

        Returns:
            ``(..., 2, 2)``, symmetric positive definite, NaN outside the box; differentiable with respect to ``z``
            inside, with derivatives that jump from cell to cell.
        """
        if z.shape[-1] != 2 or z.dtype != self.lower.dtype or z.device != self.lower.device:
            raise ValueError(
                f"z: got {z.dtype} {tuple(z.shape)} on {z.device}, expected {self.lower.dtype} (..., 2) on "
                f"{self.lower.device} like the table"
            )
        at = (z.reshape(-1, 2) - self.lower) * self._scale
        # 1 to n inside the box, 0 or n + 1 outside and for NaN
        cell = torch.bucketize(at.detach(), self._edges, right=True)
        i, j = cell.unbind(-1)
        far, near = self._table.index_select(0, torch.add(j, i, alpha=self.resolution + 2)).chunk(2, dim=-1)
        to_far_x, to_far_y = (cell - at).chunk(2, dim=-1)
        far, near = torch.lerp(far, near, to_far_x).chunk(2, dim=-1)
        return _exponential(torch.lerp(far, near, to_far_y)).reshape(*z.shape, 2)


@torch.no_grad()
def tabulate(metric: Metric, lower: Tensor, upper: Tensor, *, resolution: int = 256) -> TabulatedMetric:
    r"""Evaluate a metric of the plane on a grid, and return a metric that interpolates its logarithm.

    At relative coordinates :math:`u, v \in [0, 1]` in the cell between four nodes,

    .. math:: \log M(z) = (1 - u) (1 - v) \log M_{00} + u (1 - v) \log M_{10} + (1 - u) v \log M_{01} + u v \log M_{11},

    so that M is positive definite. Outside the box M is NaN, and a random walk stops at the edge.

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., 2) -> M (..., 2, 2)``.
        lower: the corner of the box with the smallest coordinates, ``(2,)``, in latent units. The table and its
            arguments have the same dtype and device.
        upper: the opposite corner, ``(2,)``.
        resolution: number of cells along each side. The metric is evaluated at ``(resolution + 1) ** 2`` nodes, and 12
            numbers are stored per cell.

    Returns:
        a callable ``z (..., 2) -> M (..., 2, 2)``, differentiable with respect to z, that every function accepts as a
        metric. Its attributes ``error`` and ``typical_error`` are the largest and the median relative error
        :math:`\|M - M'\|_F / \|M'\|_F` against the metric M' itself, at the centres of 2,000 cells drawn at random (of
        all cells where there are fewer).

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape or range; where the metric is not finite at a node
            or at one of these centres. The message gives the first such point.

    Note:
        The error is of second order in the sides of the cells: twice the resolution divides it by four. Features that
        are narrower than a cell are missed, such as a kink, a point where the metric vanishes, or the wall of an RBF
        variance. There ``error`` remains large, and ``typical_error`` describes the rest of the box.
        Without the logarithm the interpolated tensors would be too large along the minor axis: where the eigenvectors
        of a metric with condition number k rotate, the smaller eigenvalue between two nodes would grow in proportion to
        k, here to log k. In front of the wall of an RBF variance this would keep walkers inside many times as long.
        Eigenvalues smaller than the dtype's eps times the largest are raised to that value.
        Derivatives jump from cell to cell, so geodesics cannot be computed more accurately than the table.

    Source:
        This project. The logarithm is from Arsigny et al. 2006, "Log-Euclidean metrics".
    """
    metric = as_metric(metric)
    for name, corner in (("lower", lower), ("upper", upper)):
        checks.latent_points(name, corner)
        if corner.shape != (2,):
            raise ValueError(f"{name}: got shape {tuple(corner.shape)}, expected (2,), as only planes are tabulated")
    checks.same_kind("upper", upper, "lower", lower)
    if not bool((lower < upper).all()):
        raise ValueError(f"lower, upper: got {lower.tolist()} and {upper.tolist()}, expected lower < upper")
    checks.integer("resolution", resolution, at_least=2)
    lower, upper = lower.detach().clone(), upper.detach().clone()

    def evaluate(z: Tensor) -> Tensor:
        size = metric.points_at_once(z)
        if z.device.type == "cpu":
            size = min(size, _POINTS_AT_ONCE_CPU)
        return torch.cat([metric(part) for part in z.split(size)])

    share = torch.linspace(0, 1, resolution + 1, dtype=lower.dtype, device=lower.device).unsqueeze(-1)
    nodes = torch.cartesian_prod(*torch.lerp(lower, upper, share).unbind(-1))
    table = TabulatedMetric(evaluate(nodes).reshape(resolution + 1, resolution + 1, 2, 2), lower, upper)

    drawn = torch.randperm(resolution**2, generator=torch.Generator().manual_seed(0))[:_N_PROBES].to(lower.device)
    cell = torch.stack([drawn // resolution, drawn % resolution], dim=-1)
    centres = torch.lerp(lower, upper, (cell + 0.5).to(lower.dtype) / resolution)
    M = evaluate(centres)
    size = torch.linalg.matrix_norm(M).clamp_min(torch.finfo(M.dtype).tiny)
    errors = torch.linalg.matrix_norm(table(centres) - M) / size
    table.error, table.typical_error = float(errors.max()), float(errors.median())
    return table


def _logarithm(M: Tensor) -> Tensor:
    """log M ``(..., 2, 2)`` as m, p, b ``(..., 3)``: the matrix [[m + p, b], [b, m - p]]."""
    eigenvalues, U = torch.linalg.eigh(M)
    limits = torch.finfo(M.dtype)
    # eigenvalues below the rounding errors of the largest have no correct digit, and may be zero or negative
    floor = (limits.eps * eigenvalues[..., 1:]).clamp_min(limits.tiny)
    small, large = eigenvalues.clamp_min(floor).log().unbind(-1)
    x, y = U[..., 1].unbind(-1)
    r = (large - small) / 2
    return torch.stack([(large + small) / 2, r * (x * x - y * y), 2 * r * x * y], dim=-1)


def _exponential(log: Tensor) -> Tensor:
    """M ``(n, 4)`` from ``(n, 3)``: e^m (cosh r I + sinh(r) / r N) with N = [[p, b], [b, -p]], r^2 = p^2 + b^2."""
    m, p, b = log.unbind(-1)
    # not hypot, which has no derivative at zero
    r = (p * p + b * b).clamp_min(torch.finfo(log.dtype).tiny).sqrt()
    size = m.exp()
    mean, slope = size * r.cosh(), size * r.sinh() / r
    p, b = slope * p, slope * b
    return torch.stack([mean + p, b, b, mean - p], dim=-1)
