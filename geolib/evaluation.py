"""Relative improvement of geodesics over straight lines (Algorithm 1), and the comparison of two models."""

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from geolib import checks
from geolib.geodesics import geodesic
from geolib.metric import extremal_directions
from geolib.paths.result import Geodesic, joined
from geolib.riemannian import Metric, as_metric


@dataclass(frozen=True)
class RelativeImprovement:
    """The samples of Algorithm 1: pairs of points and the geodesics between them."""

    start: Tensor
    """``(n, d)``, drawn from the standard normal prior"""
    end: Tensor
    """``(n, d)``, one step along the maximal eigenvector"""
    geodesic: Geodesic
    """the curves, batch shape ``(n,)``"""

    @property
    def improvement(self) -> Tensor:
        """Relative improvement per pair ``(n,)``: 0.1 is a curve 10 % shorter than the straight line."""
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
    def half_width(self) -> float:
        """Half the width of ``interval``; NaN for one sample."""
        n = len(self.improvement)
        return float(stats.t.ppf(0.975, n - 1)) * self.std / math.sqrt(n) if n > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean (Student's t), over draws of the pairs but not over trained models."""
        return self.mean - self.half_width, self.mean + self.half_width


def relative_improvement(
    metric: Metric,
    *,
    n_samples: int = 1000,
    until: float | None = None,
    step_size: float = 1.0,
    seed: int = 0,
    latent_dim: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: object,
) -> RelativeImprovement:
    r"""Expected worst-case relative improvement over straight lines (Algorithm 1).

    Starts :math:`x_A` are drawn from the standard normal prior, ends are :math:`x_B = x_A + \alpha v_{max}` along the
    eigenvector of the metric's largest eigenvalue at :math:`x_A`. The sign of the eigenvector is chosen so that it
    points towards the origin, which keeps the ends where the generator was trained (the paper's footnote 1).

    Args:
        metric: a ``PullbackMetric``, or any callable ``z (..., d) -> M (..., d, d)``.
        n_samples: number of pairs; with ``until``, of those drawn before the interval is first looked at.
        until: draw more pairs until half the width of the mean's interval is at most this, as a fraction: 0.001 is a
            tenth of a percentage point. How many that takes grows with the square of ``std / until``.
        step_size: alpha, in latent units.
        seed: seed of the random numbers, which are drawn on the CPU in float64, the same for every dtype and device.
        latent_dim: d; by default that of the ``PullbackMetric``.
        dtype, device: of the computation; by default those of the metric's parameters, else torch's defaults.
        **options: passed to ``geodesic``.

    Returns:
        a ``RelativeImprovement`` with the pairs, their geodesics and the statistics of the improvement.

    Raises:
        TypeError, ValueError: as ``geodesic``; where the latent dimension is not known; for ``until`` with one sample,
            which has no interval.

    Note:
        With ``until`` the pairs begin with those of the same ``n_samples`` and ``seed`` without it. An interval at
        which sampling stopped holds the mean slightly less often than one of a number of pairs chosen beforehand.

    Source:
        Michelis & Becker 2021, Sec. 2.3 and Algorithm 1.
    """
    metric = as_metric(metric)
    n_samples = checks.integer("n_samples", n_samples, at_least=1)
    checks.positive("step_size", step_size)
    if until is not None:
        checks.positive("until", until)
        if n_samples == 1:
            raise ValueError("n_samples: got 1, expected at least 2 with until, as one sample has no interval")
    if latent_dim is None:
        latent_dim = metric.latent_dim
    latent_dim = checks.integer("latent_dim", latent_dim, at_least=1)
    own_dtype, own_device = metric.dtype_and_device
    generator = torch.Generator().manual_seed(checks.seed(seed))
    kind = {"device": device or own_device, "dtype": dtype or own_dtype or torch.get_default_dtype()}

    def sampled(n: int) -> RelativeImprovement:
        start = torch.randn(n, latent_dim, generator=generator, dtype=torch.float64).to(**kind)
        with torch.no_grad():
            _, v_max = extremal_directions(metric(start))
        outward = (start * v_max).sum(-1, keepdim=True) > 0
        end = start + step_size * torch.where(outward, -v_max, v_max)
        return RelativeImprovement(start, end, geodesic(metric, start, end, **options))

    found = sampled(n_samples)
    while until is not None and found.half_width > until:
        found = _both(found, sampled(_n_more(found, until)))
    return found


def _n_more(found: RelativeImprovement, until: float) -> int:
    """How many pairs to add: about as many as the interval needs, but no more than three times those there are, as a
    standard deviation of few pairs is uncertain, and no fewer than an eighth of them."""
    n = len(found.improvement)
    needed = min(n * (found.half_width / until) ** 2, 4.0 * n)
    return max(math.ceil(needed) - n, math.ceil(n / 8))


def _both(a: RelativeImprovement, b: RelativeImprovement) -> RelativeImprovement:
    n = len(a.improvement) + len(b.improvement)
    curves = joined([a.geodesic, b.geodesic], torch.arange(n, device=a.start.device), torch.Size([n]))
    return RelativeImprovement(torch.cat([a.start, b.start]), torch.cat([a.end, b.end]), curves)


@dataclass(frozen=True)
class ModelComparison:
    """The same pairs of data in the latent spaces of two models."""

    a: Geodesic
    """curves in the first model's latent space, batch shape ``(n,)``"""
    b: Geodesic
    """curves in the second model's latent space, batch shape ``(n,)``"""
    threshold: float
    """largest difference of the relative improvements of a comparable pair"""

    @property
    def difference(self) -> Tensor:
        """Absolute difference of the two relative improvements ``(n,)``."""
        return (self.a.improvement.cpu().double() - self.b.improvement.cpu().double()).abs()

    @property
    def comparable(self) -> Tensor:
        """Which pairs have comparable straight lines ``(n,)``: their improvements differ by at most the threshold."""
        return self.difference <= self.threshold

    @property
    def best(self) -> int:
        """Index of the pair whose improvements differ least."""
        return int(self.difference.argmin())


def compare_models(
    model_a: tuple[Metric, Tensor, Tensor],
    model_b: tuple[Metric, Tensor, Tensor],
    *,
    threshold: float = 0.02,
    **options: object,
) -> ModelComparison:
    """Find pairs whose straight lines can be compared between two models: those with similar relative improvements.

    Args:
        model_a: a tuple of metric, starts ``(n, d_a)`` and ends ``(n, d_a)``: the pairs encoded by the first model.
        model_b: the same for the second model, whose latent dimension may differ.
        threshold: largest difference of the relative improvements of a comparable pair, as a fraction.
        **options: passed to ``geodesic``.

    Returns:
        a ``ModelComparison`` with the geodesics of both models.

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
