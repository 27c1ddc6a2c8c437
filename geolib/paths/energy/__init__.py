"""The energy of discrete curves, by chords where there is an immersion and by tensors where there is none."""

import functools

from torch import Tensor

from geolib.paths.energy.base import PathEnergy
from geolib.paths.energy.chords import ImmersionEnergy
from geolib.paths.energy.tensors import TensorEnergy
from geolib.riemannian import ImmersedMetric, RiemannianMetric


@functools.singledispatch
def path_energy(metric: RiemannianMetric, start: Tensor, end: Tensor) -> PathEnergy:
    """The energy of curves from ``start`` to ``end`` ``(B, d)``: by chords where there is an immersion."""
    return TensorEnergy(metric)


@path_energy.register
def _(metric: ImmersedMetric, start: Tensor, end: Tensor) -> PathEnergy:
    return ImmersionEnergy(metric, start, end)
