"""The gallery of decoders: metrics and geodesics against values in float64, or the sentence that refuses them."""

import contextlib
import math
import os
import re
import shutil

import pytest
import torch
from decoders import GALLERY

from geolib import PullbackMetric, Status, expmap, geodesic, logmap

# torch's own, of a gradient that its compiler looks for
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")

DTYPE = torch.float64
WIDTH, N_CHORDS = 8, 1000
# by the coarsest precision that takes part
TOLERANCE = {DTYPE: 1e-7, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
RTOL = {DTYPE: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of the geodesics

ACCEPTED = [name for name in GALLERY if not GALLERY[name].refused]
REFUSED = [name for name in GALLERY if GALLERY[name].refused]
THERE_AND_BACK = ("tanh", "residual", "normalising flow", "GRU", "implicit layer")


def built(name, dtype):
    """A decoder of the gallery, and a map of its values in float64."""
    if name == "compiled":
        if os.environ.get("GEOLIB_SOAK") != "1":
            pytest.skip("the compiler takes longer than all the others: make soak")
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            pytest.skip("no C++ compiler here")
    return GALLERY[name].build(WIDTH, dtype), torch.no_grad()(GALLERY[name].build(WIDTH, DTYPE))


def said(name, dtype):
    """What the first use of a decoder says; warnings that are not expected are errors."""
    entry = GALLERY[name]
    if entry.warns and dtype in entry.warns_in:
        return pytest.warns(UserWarning, match=re.escape(entry.warns))
    return contextlib.nullcontext()


def coarsest(name, dtype):
    return (GALLERY[name].half or dtype) if dtype == torch.float32 else dtype


@pytest.mark.soak
@pytest.mark.parametrize("dtype", [DTYPE, torch.float32], ids=str)
@pytest.mark.parametrize("name", ACCEPTED)
def test_metric_is_that_of_differences_of_the_values(name, dtype, generator):
    decoder, values = built(name, dtype)
    z, h = torch.randn(5, 2, generator=generator, dtype=DTYPE), 1e-5
    with said(name, dtype):
        M = PullbackMetric(decoder)(z.to(dtype))
    assert M.dtype == dtype
    J = torch.stack([(values(z + h * e) - values(z - h * e)) / (2 * h) for e in torch.eye(2, dtype=DTYPE)], dim=-1)
    expected = J.mT @ J
    error = (M.to(DTYPE) - expected).flatten(1).norm(dim=-1) / expected.flatten(1).norm(dim=-1)
    assert float(error.max()) < TOLERANCE[coarsest(name, dtype)]


def lengths(values, points):
    """The lengths ``(n,)`` of the images of curves with points ``(n, T, 2)``, by chords."""
    return values(points.flatten(0, 1)).unflatten(0, points.shape[:2]).diff(dim=1).norm(dim=-1).sum(-1)


@pytest.mark.soak
@pytest.mark.parametrize("name", ACCEPTED)
def test_geodesics_are_no_longer_than_the_curves_beside_them(name, generator):
    """By the values alone; and what is no geodesic says so."""
    dtype = torch.float32 if GALLERY[name].half else DTYPE
    decoder, values = built(name, dtype)
    start, end = torch.randn(2, 3, 2, generator=generator, dtype=DTYPE)
    rtol = RTOL[coarsest(name, dtype)]
    with said(name, dtype):
        g = geodesic(PullbackMetric(decoder), start.to(dtype), end.to(dtype), rtol=rtol)
    statuses = {Status(status) for status in g.status.tolist()}
    assert GALLERY[name].statuses[0] in statuses
    assert statuses <= set(GALLERY[name].statuses)
    t = torch.linspace(0, 1, N_CHORDS + 1, dtype=DTYPE)
    curve = g.curve(t.to(dtype)).to(DTYPE)
    measured = lengths(values, curve)
    resolved = g.status != Status.UNRESOLVED
    tolerance = rtol + TOLERANCE[coarsest(name, dtype)]
    torch.testing.assert_close(g.length.to(DTYPE)[resolved], measured[resolved], rtol=tolerance, atol=0)
    assert (measured <= (1 + rtol) * lengths(values, torch.lerp(start[:, None], end[:, None], t[:, None]))).all()
    aside = 0.05 * (end - start).flip(-1)[:, None] * torch.tensor([1.0, -1.0], dtype=DTYPE)
    for turns in (1, -1, 2, -2):
        beside = curve + math.copysign(1, turns) * (math.pi * abs(turns) * t).sin()[:, None] * aside
        assert (measured <= (1 + rtol) * lengths(values, beside))[g.converged].all()


@pytest.mark.filterwarnings("ignore:mean. torch's forward mode")
@pytest.mark.parametrize("name", THERE_AND_BACK)
def test_there_and_back(name, generator):
    decoder, _ = built(name, DTYPE)
    metric = PullbackMetric(decoder)
    start, way = torch.randn(2, 2, generator=generator, dtype=DTYPE)
    end = start + 0.3 * way
    velocity = logmap(metric, start, end)
    torch.testing.assert_close(expmap(metric, start, velocity), end, rtol=0, atol=1e-4)
    speed = (velocity @ metric(start) @ velocity).sqrt()
    torch.testing.assert_close(speed, geodesic(metric, start, end).length, rtol=2e-4, atol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_with_its_remedy(name):
    decoder, _ = built(name, DTYPE)
    start, end = torch.eye(2, dtype=DTYPE)
    for call in (lambda: PullbackMetric(decoder)(start), lambda: geodesic(PullbackMetric(decoder), start, end)):
        with pytest.raises(ValueError, match=f"^mean: .*{GALLERY[name].refused}"):
            call()
