"""Latent-space geometry of deep generative models: metrics, curves, geodesics and measures of curvature.

A name is loaded when it is first asked for: torch takes seconds to import, and whoever only starts a notebook or reads
its files does not need it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # as an editor sees it
    from geolib.curves import curve_energy, curve_length
    from geolib.evaluation import compare_models, relative_improvement
    from geolib.exponential import expmap, logmap
    from geolib.geodesics import METHODS, geodesic
    from geolib.metric import (
        FlatMetricWarning,
        PullbackMetric,
        condition_number,
        extremal_directions,
        magnification_factor,
    )
    from geolib.paths.certificate import geodesic_index, geodesic_residual, is_geodesic
    from geolib.paths.result import Geodesic, GeodesicError, Status
    from geolib.paths.starts.graph import LatentGraph
    from geolib.plane.distances import distance_field, global_distances
    from geolib.plane.tabulated import tabulate
    from geolib.spline import CubicBSpline
    from geolib.variance import RBFPrecision, ensemble, fit_rbf_precision
    from geolib.walks import random_walk

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "CubicBSpline",
    "FlatMetricWarning",
    "Geodesic",
    "GeodesicError",
    "LatentGraph",
    "PullbackMetric",
    "RBFPrecision",
    "Status",
    "compare_models",
    "condition_number",
    "curve_energy",
    "curve_length",
    "distance_field",
    "ensemble",
    "expmap",
    "extremal_directions",
    "fit_rbf_precision",
    "geodesic",
    "geodesic_index",
    "geodesic_residual",
    "global_distances",
    "is_geodesic",
    "logmap",
    "magnification_factor",
    "random_walk",
    "relative_improvement",
    "tabulate",
]

_HOMES = {
    "curves": ["curve_energy", "curve_length"],
    "evaluation": ["compare_models", "relative_improvement"],
    "exponential": ["expmap", "logmap"],
    "geodesics": ["METHODS", "geodesic"],
    "metric": [
        "FlatMetricWarning",
        "PullbackMetric",
        "condition_number",
        "extremal_directions",
        "magnification_factor",
    ],
    "paths.certificate": ["geodesic_index", "geodesic_residual", "is_geodesic"],
    "paths.result": ["Geodesic", "GeodesicError", "Status"],
    "paths.starts.graph": ["LatentGraph"],
    "plane.distances": ["distance_field", "global_distances"],
    "plane.tabulated": ["tabulate"],
    "spline": ["CubicBSpline"],
    "variance": ["RBFPrecision", "ensemble", "fit_rbf_precision"],
    "walks": ["random_walk"],
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            thing = getattr(importlib.import_module(f"geolib.{home}"), name)
            globals()[name] = thing  # from now on without asking here
            return thing
    raise AttributeError(f"module 'geolib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
