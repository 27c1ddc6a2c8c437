"""widgets: the explorer refits and redraws, explains what cannot be fitted, and begins as its printed twin."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from project import bundled

from geolib.companion.figures import plots
from geolib.companion.interface import widgets
from geolib.companion.models import generators
from geolib.companion.models.networks.vae import VAE, VAEConfig

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]

FIRST = {"n_centers": 12, "curvature": 1.25, "zeta": 1e-3}
N = 100  # latents: fewer than the slider's largest number of centres


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Latents of real digits under a random encoder, what its decoder misses of them, and a grid."""
    images = bundled(tmp_path_factory, (2, 4)).train_images[:N]
    vae = VAE(VAEConfig(widths=(24, 12)), generator=torch.Generator().manual_seed(1)).eval()
    latents = vae.encode(images)
    grid = plots.LatentGrid.around(latents, resolution=10, margin=0.4)
    return latents, generators.variance_target(vae, images, latents), grid


@pytest.fixture
def explorer(fitted):
    return widgets.RBFExplorer(*fitted, **FIRST)


def pixels(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_first_state_is_that_of_the_printed_twin(fitted, explorer):
    figure = widgets.rbf_figure(*fitted, **FIRST)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    np.testing.assert_array_equal(pixels(explorer.picture.value), pixels(buffer.getvalue()))
    assert explorer.picture.format == "png"
    assert "refitted and redrawn in" in explorer.message.value


def test_it_shows_sliders_picture_and_message(explorer):
    sliders = (explorer.curvature, explorer.n_centers, explorer.zeta)
    assert explorer.children == (*sliders, explorer.picture, explorer.message)
    assert tuple(slider.value for slider in sliders) == (1.25, 12, 1e-3)
    assert [slider.description for slider in sliders] == ["curvature a", "centres K", "floor ζ"]
    assert not any(slider.continuous_update for slider in sliders)


@pytest.mark.slow
@pytest.mark.parametrize(("slider", "value"), [("curvature", 2.0), ("n_centers", 20), ("zeta", 1e-1)])
def test_a_slider_redraws_what_its_value_gives(*, fitted, explorer, slider, value):
    before = explorer.picture.value
    explorer.message.value = ""
    getattr(explorer, slider).value = value
    assert explorer.picture.value != before
    assert "refitted and redrawn in" in explorer.message.value
    buffer = io.BytesIO()
    widgets.rbf_figure(*fitted, **{**FIRST, slider: value}).savefig(buffer, format="png", dpi=110)
    np.testing.assert_array_equal(pixels(explorer.picture.value), pixels(buffer.getvalue()))
    getattr(explorer, slider).value = FIRST[slider]
    assert explorer.picture.value == before


def test_what_cannot_be_fitted_is_explained_and_the_picture_stays(explorer):
    before = explorer.picture.value
    explorer.n_centers.value = 128
    assert f"not fitted: n_centers: got 128, expected at most the number of latents, {N}" in explorer.message.value
    assert explorer.picture.value == before
    explorer.n_centers.value = 16
    assert "refitted and redrawn in" in explorer.message.value
    assert explorer.picture.value != before


@pytest.mark.slow
def test_moving_a_slider_leaves_no_figure_open(explorer):
    plt.close("all")
    for value in (0.5, 0.75, 1.0):
        explorer.curvature.value = value
    assert plt.get_fignums() == []


def test_the_frame_has_its_settings_in_the_title_and_its_centres_on_the_map(fitted):
    figure = widgets.rbf_figure(*fitted, **FIRST)
    axes = figure.axes[0]
    assert axes.get_title() == "a = 1.25, K = 12, ζ = 0.001"
    (centres,) = axes.collections
    assert len(centres.get_offsets()) == 12
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert figure.axes[1].get_ylabel()


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "value"), [("n_centers", 7), ("curvature", 1.3), ("zeta", 2e-3)])
def test_settings_between_the_sliders_steps_are_kept(fitted, setting, value):
    explorer = widgets.RBFExplorer(*fitted, **{**FIRST, setting: value})
    buffer = io.BytesIO()
    widgets.rbf_figure(*fitted, **{**FIRST, setting: value}).savefig(buffer, format="png", dpi=110)
    np.testing.assert_array_equal(pixels(explorer.picture.value), pixels(buffer.getvalue()))


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "value"), [("n_centers", 2), ("curvature", 4.0), ("zeta", 1e-7)])
def test_a_first_state_beyond_the_sliders_is_shown_all_the_same_or_refused(fitted, setting, value):
    try:
        explorer = widgets.RBFExplorer(*fitted, **{**FIRST, setting: value})
    except ValueError as error:
        assert setting in str(error)
    else:
        assert getattr(explorer, setting).value == pytest.approx(value)
