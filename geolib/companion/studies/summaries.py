"""Single numbers that sum up a map or a sample, for the numbers table."""

import math
from collections.abc import Callable

import torch
from scipy import stats
from torch import Tensor


def decades(values: Tensor) -> float:
    """How many powers of ten positive values span, from their 1st to their 99th percentile; infinities left out."""
    logs = values[torch.isfinite(values)].log10().flatten()
    low, high = torch.quantile(logs, torch.tensor([0.01, 0.99], dtype=logs.dtype, device=logs.device))
    return float(high - low)


def alignment(directions: Tensor) -> float:
    """How far unit directions of the plane ``(..., 2)``, defined up to sign, agree: 1 all the same, 0 evenly spread.

    The length of the mean of the double-angle vectors (cos 2a, sin 2a).
    """
    x, y = directions[..., 0], directions[..., 1]
    return float(torch.stack([(x * x - y * y).mean(), (2 * x * y).mean()]).norm())


def mean(values: Tensor) -> float:
    """The mean, in double precision."""
    return float(values.double().mean())


def median(values: Tensor) -> float:
    """The median."""
    return float(values.double().quantile(0.5))


def share(flags: Tensor) -> float:
    """The fraction that is true."""
    return mean(flags)


def half_width(values: Tensor) -> Tensor:
    """Half the width of Student's 95 % interval of the mean of ``values (..., n)``: ``(...)``; NaN for one value."""
    n = values.shape[-1]
    if n == 1:
        return torch.full_like(values[..., 0], math.nan, dtype=torch.float64)
    return float(stats.t.ppf(0.975, n - 1)) * values.double().std(-1) / math.sqrt(n)


def rank_correlation(columns: Tensor) -> float:
    """Spearman's correlation of two columns ``(n, 2)``, or the mean over any two of more ``(n, k)``.

    0 for columns of equal values, which a resample of few rows may hold.
    """
    ranks = torch.from_numpy(stats.rankdata(columns.numpy(), axis=0))
    standard = torch.nn.functional.normalize(ranks - ranks.mean(0), dim=0)
    correlations = standard.T @ standard
    return float(correlations[*torch.triu_indices(*correlations.shape, offset=1)].mean())


def nearest_others(points: Tensor) -> Tensor:
    """The index of the nearest other point of each of ``points (n, d)``: ``(n,)``, on the CPU."""
    nearest = []
    for rows in torch.arange(len(points)).split(1024):
        distance = torch.cdist(points[rows], points).cpu()
        distance[torch.arange(len(rows)), rows] = torch.inf  # a point is no neighbour of itself
        nearest.append(distance.argmin(-1))
    return torch.cat(nearest)


def share_beside_its_own_kind(points: Tensor, kinds: Tensor) -> float:
    """The fraction of ``points (n, d)`` whose nearest neighbour among the others is of the same kind ``(n,)``."""
    kinds = kinds.cpu()
    return share(kinds[nearest_others(points)] == kinds)


def share_interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a share of which ``count`` of ``n`` draws are an estimate."""
    interval = stats.binomtest(count, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@torch.no_grad()
def log_sigma(std: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    r"""The logarithm of the summed standard deviation, :math:`\log \sum_j \sigma_j(z)`, at ``points (..., d)``."""
    parts = points.reshape(-1, points.shape[-1]).split(4096)
    return torch.cat([std(part).sum(-1).log() for part in parts]).reshape(points.shape[:-1])
