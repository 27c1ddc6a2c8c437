"""What the explorer's module is given, as JSON values: tables, the decoder's weights, points, pairs and choices."""

import base64
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from geolib.companion.figures import plots
from geolib.companion.models.generators import Generator
from geolib.companion.models.networks.vae import ACTIVATIONS
from geolib.companion.studies.linear_interpolation.explorer import (
    RESOLUTION,
    Explored,
    Found,
    Landscape,
    Setting,
    StepSizes,
)
from geolib.companion.studies.linear_interpolation.two_models import NAMES, TwoModels
from geolib.evaluation import RelativeImprovement

_LEVELS = 2**16 - 1
_ACTIVATIONS = {**{kind: name for name, kind in ACTIVATIONS.items()}, nn.Sigmoid: "sigmoid"}
_MOST_POINTS = 1500
_ATLAS = 25  # images along each side of an atlas
_IMAGES = 9  # along a line or a curve of a pair
THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""percentage points"""
CURVATURES = tuple(0.25 * k for k in range(1, 13))
CENTERS = (4, 8, *range(16, 129, 16))
ZETAS = tuple(10.0**k for k in range(-5, 1))


def floats(values: Tensor) -> str:
    """Values as little-endian float32 in base64, for ``floats`` of the module."""
    return base64.b64encode(plots.to_numpy(values).astype("<f4").tobytes()).decode()


def steps(values: Tensor) -> dict[str, Any]:
    """Values ``(..., C)`` as 16-bit steps between the smallest and the largest of each channel, for ``steps``."""
    flat = plots.to_numpy(values).reshape(-1, values.shape[-1]).astype(np.float64)
    low, high = flat.min(0), flat.max(0)
    step = np.where(high > low, (high - low) / _LEVELS, 1.0)
    data = base64.b64encode(np.rint((flat - low) / step).astype("<u2").tobytes()).decode()
    return {"data": data, "low": low.tolist(), "step": step.tolist()}


def images(explored: Explored) -> dict[str, Any]:
    """How the page draws images: by the decoder's layers where it is a chain of them, else from an atlas of images."""
    mean = explored.g.vae.mean
    try:
        return {"decoder": decoder(mean)}
    except ValueError:
        return {"atlas": atlas(explored)}


@torch.no_grad()
def atlas(explored: Explored) -> dict[str, Any]:
    """Decoded images on a coarse grid of the map, in 8 bits between the darkest and the brightest pixel of the data."""
    axes = (
        torch.lerp(explored.lower[k], explored.upper[k], torch.linspace(0, 1, _ATLAS).to(explored.lower))
        for k in (0, 1)
    )
    decoded = explored.g.vae.mean(torch.cartesian_prod(*axes))
    low, high = (float(limit) for limit in explored.g.data.train_images.aminmax())
    return {"side": _ATLAS, "size": decoded.shape[-1], "data": eight_bits(decoded, low, high)}


def decoder(mean: nn.Module) -> list[dict[str, Any]]:
    """The layers of a chain of linear maps and activations.

    Raises:
        ValueError: for a decoder that is made of anything else.
    """
    layers = list(mean) if isinstance(mean, nn.Sequential) else [mean]
    known = len(layers) % 2 == 0 and all(
        isinstance(linear, nn.Linear) and type(activation) in _ACTIVATIONS
        for linear, activation in zip(layers[::2], layers[1::2], strict=True)
    )
    if not known:
        got = ", ".join(type(layer).__name__ for layer in layers)
        raise ValueError(f"mean: got {got}, expected nn.Linear and tanh or sigmoid in turn")
    return [
        {"weight": floats(linear.weight), "bias": floats(linear.bias), "activation": _ACTIVATIONS[type(activation)]}
        for linear, activation in zip(layers[::2], layers[1::2], strict=True)
    ]


def choices(explored: Explored, **values: Iterable[float]) -> dict[str, list]:
    """What each control offers, in order, the values of the first setting among them."""
    return {
        "variance": list(explored.variances),
        **{name: sorted({*chosen, getattr(explored.first, name)}) for name, chosen in values.items()},
    }


def key(setting: Setting, offered: dict[str, list]) -> str:
    """The name of a setting's table: its variance, and the places of its numbers among those offered."""
    if setting.variance != "rbf":
        return setting.variance
    places = [offered[name].index(getattr(setting, name)) for name in ("curvature", "n_centers", "zeta")]
    return "-".join(map(str, ["rbf", *places]))


def setting(state: dict[str, Any], offered: dict[str, list]) -> Setting:
    """The setting that a page asks for: a variance, and places among the numbers offered."""
    numbers = {name: offered[name][state[name]] for name in ("curvature", "n_centers", "zeta")}
    return Setting(state["variance"], **numbers)


def table(landscape: Landscape) -> dict[str, Any]:
    """One setting's metric and log sum sigma at the nodes, and the centres of an RBF variance."""
    sigma = None if landscape.log_sigma is None else steps(landscape.log_sigma.reshape(-1, 1))
    rbf = landscape.setting.variance == "rbf"
    centers = floats(landscape.metric.std.centers) if rbf else None
    return {"logs": steps(landscape.table.logs), "log_sigma": sigma, "centers": centers}


def improvement(samples: RelativeImprovement) -> dict[str, Any]:
    """A small Algorithm 1: its mean and half the width of its interval, in per cent, and how many curves were found."""
    return {
        "mean": known(100 * samples.mean),
        "half": known(100 * samples.half_width),
        "n": samples.n_pairs,
        "converged": samples.n_converged,
    }


def known(value: float) -> float | None:
    """A number, and None for NaN, which JSON does not have: the metric is not finite there."""
    return None if math.isnan(value) else float(value)


def variances(
    explored: Explored, landscape: Landscape, offered: dict[str, list], *, notice: str = ""
) -> dict[str, Any]:
    """All that the page of sliders needs to draw the first state.

    Args:
        explored: the generator.
        landscape: of its first setting.
        offered: the values of the controls, from ``choices``.
        notice: what a reader must know of the data.
    """
    first = explored.first
    return {
        "view": "variances",
        "background": "sigma",
        "box": {"n": RESOLUTION, "lower": explored.lower.tolist(), "upper": explored.upper.tolist()},
        **images(explored),
        **_points(explored.g),
        "choices": offered,
        "first": {"variance": first.variance, **{n: offered[n].index(getattr(first, n)) for n in list(offered)[1:]}},
        "tables": {key(first, offered): table(landscape)},
        "notice": notice,
    }


def scene(found: Found, offered: dict[str, list], *, run: dict[str, Any], notice: str = "") -> dict[str, Any]:
    """All that the explorer needs to draw the first state, and to work without a kernel.

    Args:
        found: what the study measured.
        offered: the values of the controls, from ``choices``.
        run: recipe, profile, seed and the ensemble's recipe, for the code that reproduces a state.
        notice: what a reader must know of the data.
    """
    ground = variances(found.explored, found.landscape, offered, notice=notice)
    ((name, first),) = ground["tables"].items()
    return {
        **ground,
        "view": "explorer",
        "background": "volume",
        "ends": [z.tolist() for z in found.ends],
        "pairs": _pairs(found),
        "tables": {name: {**first, "improvement": improvement(found.samples)}},
        "run": run,
    }


def step_sizes(found: StepSizes, *, notice: str = "") -> dict[str, Any]:
    """All that the page of step sizes needs to find its curves.

    Args:
        found: Algorithm 1 at the first step size.
        notice: what a reader must know of the data.
    """
    first, table, n = found.sizes.index(found.first), found.table, len(found.samples.improvement)
    return {
        "view": "steps",
        "box": {"n": table.resolution, "lower": table.lower.tolist(), "upper": table.upper.tolist()},
        **_points(found.g),
        "logs": steps(table.logs),
        "starts": found.samples.start.tolist(),
        "steps": list(found.sizes),
        "first": first,
        "exact": {str(first): mean_improvement(found.samples)},
        "quantile": float(stats.t.ppf(0.975, n - 1)) if n > 1 else 0.0,
        "notice": notice,
    }


def mean_improvement(samples: RelativeImprovement) -> dict[str, float | None]:
    """The mean of Algorithm 1 and half the width of its interval, as fractions."""
    return {"mean": known(samples.mean), "half": known(samples.half_width)}


def pairs(found: TwoModels, *, notice: str = "") -> dict[str, Any]:
    """All that the page of pairs shows.

    Args:
        found: the pairs in both models.
        notice: what a reader must know of the data.
    """
    own, (a, b) = 100 * found.comparison.threshold, (found.comparison.a, found.comparison.b)
    thresholds = sorted({*THRESHOLDS, own})
    low, high = (float(limit) for limit in found.models[0].data.train_images.aminmax())
    strips = torch.stack([torch.stack(found.strips(pair, _IMAGES)) for pair in range(len(found.first))])
    labels = found.models[0].test_labels
    return {
        "view": "pairs",
        "models": list(NAMES),
        "pairs": [
            {
                "labels": [int(labels[k]) for k in ends],
                "improvements": [known(share) for share in shares],
                "difference": known(difference),
            }
            for *ends, shares, difference in zip(
                found.first.tolist(),
                found.second.tolist(),
                zip(a.improvement.tolist(), b.improvement.tolist(), strict=True),
                found.comparison.difference.tolist(),
                strict=True,
            )
        ],
        "strips": {"images": _IMAGES, "data": eight_bits(strips, low, high)},
        "thresholds": thresholds,
        "first": thresholds.index(own),
        "notice": notice,
    }


def eight_bits(values: Tensor, low: float, high: float) -> str:
    """Values from ``low`` to ``high`` in 8 bits and base64, for ``pixels``."""
    stored = (255 * (values.cpu() - low) / (high - low)).round().clamp(0, 255).to(torch.uint8)
    return base64.b64encode(stored.numpy().tobytes()).decode()


def add(to: dict[str, Any], explored: Explored, one: Setting, *, seed: int) -> None:
    """The table of one more setting, with its Algorithm 1, into a scene."""
    landscape = explored.landscape(one)
    samples = landscape.improvement(seed=seed)
    to["tables"][key(one, to["choices"])] = {**table(landscape), "improvement": improvement(samples)}


def every(offered: dict[str, list]) -> list[Setting]:
    """All settings that the controls can reach."""
    numbers = itertools.product(*(offered[name] for name in ("curvature", "n_centers", "zeta")))
    others = [Setting(name) for name in offered["variance"] if name != "rbf"]
    return [*others, *(Setting("rbf", *chosen) for chosen in numbers)]


def _points(g: Generator) -> dict[str, Any]:
    labels: NDArray = plots.to_numpy(g.test_labels)[:_MOST_POINTS]
    return {"points": floats(g.test_latents[:_MOST_POINTS]), "labels": labels.tolist(), "classes": list(g.data.classes)}


def _pairs(found: Found) -> list[dict[str, Any]]:
    g = found.explored.g
    return [
        {
            "ends": [g.test_latents[k].tolist() for k in ends],
            "labels": [int(g.test_labels[k]) for k in ends],
            "improvement": known(improved),
        }
        for *ends, improved in zip(found.first, found.second, found.exact.improvement, strict=True)
    ]
