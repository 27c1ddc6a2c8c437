"""How far straight lines are from geodesics: Algorithm 1, and the comparison of two models."""

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from geolib import checks
from geolib.curves import Metric, metric_tensor
from geolib.geodesics import geodesic
from geolib.metric import PullbackMetric, extremal_directions
from geolib.paths.result import Geodesic


@dataclass(frozen=True)
class RelativeImprovement:
    """Algorithm 1's samples: pairs of points, and how much shorter than the straight line a curve between them is."""

    start: Tensor
    """``(n, d)``, drawn from the standard normal prior"""
    end: Tensor
    """``(n, d)``, one step along the maximal eigenvector"""
    geodesic: Geodesic
    """the curves, batch shape ``(n,)``"""

    @property
    def improvement(self) -> Tensor:
        """``(n,)``, as fractions: 0.1 is a curve 10 % shorter than the line."""
        return self.geodesic.improvement

    @property
    def mean(self) -> float:
        """The expected worst-case relative improvement."""
        return float(self.improvement.double().mean())

    @property
    def std(self) -> float:
        """The sample standard deviation; NaN for one sample."""
        return float(self.improvement.double().std()) if len(self.improvement) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean over draws of the pairs (Student's t); not over trained models."""
        n = len(self.improvement)
        if n == 1:
            return math.nan, math.nan
        half = float(stats.t.ppf(0.975, n - 1)) * self.std / math.sqrt(n)
        return self.mean - half, self.mean + half


def relative_improvement(
    metric: Metric,
    *,
    n_samples: int = 1000,
    step_size: float = 1.0,
    seed: int = 0,
    latent_dim: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: object,
) -> RelativeImprovement:
    r"""Expected worst-case relative improvement over straight lines (Algorithm 1).

    Starts :math:`x_A` are drawn from the standard normal prior, ends are :math:`x_B = x_A + \alpha v_{max}` along the
    eigenvector of the metric's largest eigenvalue at :math:`x_A`, its sign turned to the origin so that ends stay
    where the generator was trained (the paper's footnote 1).

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        n_samples: number of pairs.
        step_size: alpha, in latent units.
        seed: of the draws, which are made on the CPU in float64 and are the same for every dtype and device.
        latent_dim: d; by default what the metric tells.
        dtype, device: of the computation; by default those of the metric's parameters, else torch's defaults.
        **options: passed to ``geodesic``.

    Raises:
        TypeError, ValueError: as ``geodesic``; where the latent dimension cannot be known.

    Source:
        Michelis & Becker 2021, Sec. 2.3 and Algorithm 1.
    """
    checks.integer("n_samples", n_samples, at_least=1)
    checks.positive("step_size", step_size)
    if latent_dim is None:
        if not isinstance(metric, PullbackMetric):
            raise TypeError("latent_dim: needed for a metric that is not a PullbackMetric")
        latent_dim = metric.latent_dim
    checks.integer("latent_dim", latent_dim, at_least=1)
    own_dtype, own_device = metric.kind if isinstance(metric, PullbackMetric) else (None, None)
    generator = torch.Generator().manual_seed(checks.integer("seed", seed, at_least=0))
    start = torch.randn(n_samples, latent_dim, generator=generator, dtype=torch.float64)
    start = start.to(device=device or own_device, dtype=dtype or own_dtype or torch.get_default_dtype())

    with torch.no_grad():
        _, v_max = extremal_directions(metric_tensor(metric, start))
    outward = (start * v_max).sum(-1, keepdim=True) > 0
    end = start + step_size * torch.where(outward, -v_max, v_max)
    return RelativeImprovement(start, end, geodesic(metric, start, end, **options))


@dataclass(frozen=True)
class ModelComparison:
    """The same pairs of data seen by two models."""

    a: Geodesic
    """curves in the first model's latent space, batch shape ``(n,)``"""
    b: Geodesic
    """and in the second's"""
    threshold: float

    @property
    def difference(self) -> Tensor:
        """``(n,)``: how much the two relative improvements differ, in absolute value."""
        return (self.a.improvement.cpu().double() - self.b.improvement.cpu().double()).abs()

    @property
    def comparable(self) -> Tensor:
        """``(n,)``: the pairs whose straight lines may be compared, their improvements being within the threshold."""
        return self.difference <= self.threshold

    @property
    def best(self) -> int:
        """The pair whose improvements are most alike."""
        return int(self.difference.argmin())


def compare_models(
    model_a: tuple[Metric, Tensor, Tensor],
    model_b: tuple[Metric, Tensor, Tensor],
    *,
    threshold: float = 0.02,
    **options: object,
) -> ModelComparison:
    """Which straight lines of two models may be compared: those that are equally far from their geodesics.

    Args:
        model_a: metric, and starts and ends ``(n, d_a)``: the pairs as the first model's own encoder sees them.
        model_b: the same pairs with the second model's metric and encoder; latent dimensions may differ.
        threshold: largest difference of the relative improvements of a comparable pair, as a fraction.
        **options: passed to ``geodesic``.

    Raises:
        TypeError, ValueError: as ``geodesic``; where the models' numbers of pairs differ.

    Source:
        Michelis & Becker 2021, Sec. 3 and App. D.
    """
    checks.positive("threshold", threshold)
    for name, model in (("model_a", model_a), ("model_b", model_b)):
        if not isinstance(model, tuple) or len(model) != 3:
            raise TypeError(f"{name}: expected a tuple (metric, start, end)")
        for part, z in zip(("start", "end"), model[1:], strict=True):
            checks.latent_points(f"{name}'s {part}", z)
            if z.ndim != 2:
                raise ValueError(f"{name}'s {part}: got shape {tuple(z.shape)}, expected (n, d)")
    counts = [len(z) for model in (model_a, model_b) for z in model[1:]]
    if len(set(counts)) != 1:
        raise ValueError(f"model_a, model_b: got {counts} starts and ends, expected the same pairs in both models")
    return ModelComparison(geodesic(*model_a, **options), geodesic(*model_b, **options), float(threshold))
