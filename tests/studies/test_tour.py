"""Notebook 00's study and panel: what is told of one geodesic, and what is drawn of it."""

import dataclasses

import numpy as np
import pytest
import torch
from project import small_generator

import geolib
from geolib.companion.figures import style
from geolib.companion.figures.linear_interpolation import tour as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models import generators
from geolib.companion.studies.linear_interpolation import tour as study
from geolib.paths.result import Status

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return study.measure(small_generator(tmp_path_factory), 2, 7)


def test_the_geodesic_joins_typical_images_of_the_two_classes(found):
    start, end = generators.class_pair(found.g, 2, 7)
    torch.testing.assert_close(found.curve.points[[0, -1]], torch.stack([start, end]))
    line, curve = found.along(n_points=5)
    torch.testing.assert_close(line[2], (start + end) / 2)
    torch.testing.assert_close(curve[[0, -1]], line[[0, -1]])
    torch.testing.assert_close(curve, found.curve.curve(torch.linspace(0, 1, 5)))


def test_what_is_told_of_the_curve(found):
    assert found.improvement == pytest.approx(100 * (1 - float(found.curve.length / found.curve.line_length)), abs=1e-4)
    assert {row["quantity"]: row["value"] for row in found.numbers} == {
        "curve shorter than the line by": found.improvement,
        "largest distance of the curve from the line, of the line": found.deviation,
    }
    assert found.certificate == "the solver converged"
    stopped = dataclasses.replace(found.curve, status=torch.full_like(found.curve.status, int(Status.MAX_STEPS)))
    assert not stopped.converged
    assert dataclasses.replace(found, curve=stopped).certificate.startswith("the solver did not converge")


def test_the_distance_from_the_line_is_that_of_a_half_circle():
    """On the half-plane the geodesic from (-1, 1) to (1, 1) is an arc of the circle around the origin."""

    def half_plane(z):
        return torch.eye(2).to(z) / z[..., 1:, None].square()

    curve = geolib.geodesic(half_plane, torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert study.Tour(None, curve).deviation == pytest.approx(100 * (2**0.5 - 1) / 2, rel=1e-2)


def test_the_panel_has_the_curves_and_the_images_along_both(found):
    figure = panels.tour(found, resolution=12, n_images=4)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    assert figure.get_figwidth() == style.COLUMN
    plane, strip = figure.axes[:2]
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("$z_1$", "$z_2$")
    assert sorted(text.get_text() for text in plane.texts) == ["2", "4", "5", "7"]
    shown = np.asarray(strip.images[0].get_array())
    assert shown.shape == (56, 112)
    line, curve = found.along(n_points=4)
    np.testing.assert_allclose(shown[:28, 28:56].ravel(), found.g.vae.mean(line[1]), atol=1e-6)
    np.testing.assert_allclose(shown[28:, 28:56].ravel(), found.g.vae.mean(curve[1]), atol=1e-6)
    dots = [collection.get_offsets() for collection in plane.collections if len(collection.get_offsets()) == 4]
    np.testing.assert_allclose(np.stack(dots), torch.stack([line, curve]), atol=1e-6)


def test_digits_are_named_among_their_own_images_and_off_the_curve(found):
    figure = panels.tour(found, resolution=12)
    for text in figure.axes[0].texts:
        place = torch.tensor(text.get_position())
        own = found.g.test_latents[found.g.test_labels == int(text.get_text())]
        assert float((own - place).norm(dim=-1).min()) < 1e-5
        median = own[torch.cdist(own, own.median(0).values[None]).argmin()]
        off, before = (float((found.curve.points - point).norm(dim=-1).min()) for point in (place, median))
        assert off >= before
