"""Surfaces in space: the points, and the study of them."""

import math

import pytest
import torch

from geolib.companion.data import surfaces as data
from geolib.companion.figures.generative_models import fashion as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models import generators
from geolib.companion.models.networks.vae import VAE, VAEConfig
from geolib.companion.studies.evidence import Verdict
from geolib.companion.studies.generative_models import surfaces as study

pytestmark = pytest.mark.smoke


def in_space(found):
    points = torch.cat([found.train_images, found.test_images])
    return (points - 0.5) / 0.4, torch.cat([found.train_labels, found.test_labels])


@pytest.mark.parametrize("shape", data.SHAPES)
def test_points_are_a_data_set_in_the_unit_cube(shape):
    found = data.load(shape, 500, seed=3)
    assert (len(found.train_images), len(found.test_images), found.shape) == (400, 100, (1, 3))
    assert 0 < float(found.train_images.min()) < float(found.train_images.max()) < 1
    assert (found.source, found.notice, found.verified) == ("synthetic", "", True)
    assert torch.equal(data.load(shape, 500, seed=3).train_images, found.train_images)
    assert data.load(shape, 500, seed=4).fingerprint != found.fingerprint


def test_the_z_is_three_strokes_filled_evenly():
    points, labels = in_space(data.load("z", 20000))
    shares = labels.bincount() / len(labels)
    whole = 4 + 2 * math.sqrt(2)
    torch.testing.assert_close(shares, torch.tensor([2, 2 * math.sqrt(2), 2]) / whole, rtol=0.05, atol=0)
    off = torch.stack([points[:, 2] - 1, (points[:, 2] - points[:, 0]) / math.sqrt(2), points[:, 2] + 1])
    own = off.gather(0, labels[None])[0]
    assert float(own.std()) == pytest.approx(data.NOISE, rel=0.05)
    assert float(points[:, 1].abs().max()) < 0.5 + 5 * data.NOISE


def test_the_s_is_two_half_circles():
    points, labels = in_space(data.load("s", 20000))
    centre = torch.where(labels > 0, 0.5, -0.5)
    radius = torch.hypot(points[:, 0], points[:, 2] - centre)
    assert float(radius.mean()) == pytest.approx(0.5, abs=0.002)
    assert float(radius.std()) == pytest.approx(data.NOISE, rel=0.05)
    assert float(labels.double().mean()) == pytest.approx(0.5, abs=0.02)
    # it bulges to different sides
    assert float(points[labels > 0, 0].min()) > -5 * data.NOISE
    assert float(points[labels == 0, 0].max()) < 5 * data.NOISE


def test_the_sphere_is_filled_evenly_by_area():
    points, _ = in_space(data.load("sphere", 20000))
    assert float(points.norm(dim=-1).std()) == pytest.approx(data.NOISE, rel=0.05)
    # Archimedes: every coordinate is evenly distributed
    assert float((points[:, 2] < 0.5).double().mean()) == pytest.approx(0.75, abs=0.02)


def test_shapes_and_numbers_that_there_are_not():
    with pytest.raises(ValueError, match="shape: got 'cube', expected one of 'z', 's', 'sphere'"):
        data.load("cube")
    with pytest.raises(ValueError, match="n: got 49, expected at least 50"):
        data.load("z", 49)


@pytest.fixture(scope="module")
def found():
    models = {}
    for shape in data.SHAPES:
        points = data.load(shape, 300)
        config = VAEConfig(data_dim=3, widths=(16, 8))
        vae = VAE(config, generator=torch.Generator().manual_seed(1)).eval().requires_grad_(False)
        models[shape] = generators.generator(points, vae, n_centers=8, zeta=0.05)
    return study.measure(models, data.LABELS, n_pairs=2, resolution=9, seed=0)


def test_the_drawn_pair_is_the_farthest(found):
    one = found.found["z"]
    latents = one.g.test_latents
    assert float((one.line[0, 0] - one.line[0, -1]).norm()) == pytest.approx(float(torch.pdist(latents).max()))
    assert one.line.shape == one.geodesic.shape == (3, 129, 2)
    torch.testing.assert_close(one.line[:, [0, -1]], one.geodesic[:, [0, -1]])


def test_distance_is_that_to_the_nearest_point(found):
    one = found.found["sphere"]
    image = one.image(one.line)
    expected = torch.cdist(image.reshape(-1, 3), one.g.data.train_images).amin(-1).reshape(3, -1).mean(-1)
    torch.testing.assert_close(one.distance(one.line).float(), expected, rtol=1e-3, atol=1e-5)


def test_the_claim_is_decided_by_the_interval(found, monkeypatch):
    for difference, verdict in (((-0.2, 0.1), Verdict.SUPPORTED), ((-0.2, 0.3), Verdict.CONTRADICTED)):
        monkeypatch.setattr(study.Surface, "difference", difference)
        (claim,) = found.claims
        assert claim["verdict"] == str(verdict)
        assert (("none" in found.nearer), ("3 of 3" in found.nearer)) == ((sum(difference) >= 0), (sum(difference) < 0))
    assert len(found.numbers) == 6


@pytest.mark.usefixtures("style")
def test_the_panel_is_fit_for_print(found):
    figure = panels.surfaces(found)
    figure.canvas.draw()
    assert complaints(figure) == []
