"""The sliders of notebook 02 without a browser: first state and printed twin, refits, what cannot be fitted."""

import base64
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from project import small_generator

import geolib
from geolib.companion.figures import plots
from geolib.companion.figures.linear_interpolation import variance_rbf as panels
from geolib.companion.interface.explorer import scene, widget
from geolib.companion.studies.linear_interpolation import explorer as study

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]

FIRST = study.Setting(n_centers=12)


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    return small_generator(tmp_path_factory)


@pytest.fixture(scope="module")
def explored(g):
    return study.Explored.refitted(g, FIRST)


@pytest.fixture
def page(explored):
    return widget.Variances(explored, notice="bundled")


def asked(page, **changes):
    """A question for a table, as the page asks it."""
    setting = dataclasses.asdict(dataclasses.replace(FIRST, **changes))
    choices = page.scene["choices"]
    places = {name: choices[name].index(value) for name, value in setting.items() if name != "variance"}
    return {"id": 3, "kind": "fit", "setting": {"variance": setting["variance"], **places}}


def centers(table):
    return torch.from_numpy(np.frombuffer(base64.b64decode(table["centers"]), "<f4").reshape(-1, 2).copy())


def test_the_first_state_is_the_fit_to_all_images(g, explored, page):
    target = study.generators.variance_target(g.vae, g.data.train_images, g.train_latents)
    expected = geolib.fit_rbf_precision(g.train_latents, target, n_centers=12, curvature=1.25, zeta=1e-3)
    (table,) = page.scene["tables"].values()
    assert table == scene.table(explored.landscape(FIRST))
    torch.testing.assert_close(centers(table), expected.centers)
    assert torch.equal(explored.landscape(FIRST).metric.std.weights, expected.weights)
    assert (page.scene["view"], page.scene["background"], page.scene["notice"]) == ("variances", "sigma", "bundled")
    assert "ends" not in page.scene


def test_the_printed_twin_has_its_settings_in_the_title_and_its_centres_on_the_map(g, explored):
    grid = plots.LatentGrid.around(g.train_latents, resolution=10, margin=0.4)
    figure = panels.first_state(explored.landscape(FIRST), grid)
    axes = figure.axes[0]
    assert axes.get_title() == "a = 1.25, K = 12, ζ = 0.001"
    (centres,) = axes.collections
    assert len(centres.get_offsets()) == 12
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert figure.axes[1].get_ylabel()
    plt.close(figure)


@pytest.mark.parametrize(("slider", "value"), [("curvature", 2.0), ("n_centers", 32), ("zeta", 1e-1)])
def test_a_slider_asks_for_what_its_value_gives(explored, page, slider, value):
    answer = page.answer(asked(page, **{slider: value}))
    expected = scene.table(explored.landscape(dataclasses.replace(FIRST, **{slider: value})))
    assert {name: answer[name] for name in expected} == expected
    (first,) = page.scene["tables"].values()
    assert answer["log_sigma"] != first["log_sigma"]
    assert (answer["centers"] != first["centers"]) == (slider == "n_centers")


def test_what_cannot_be_fitted_is_a_sentence_and_the_next_is_fitted(monkeypatch, page):
    sent = []
    monkeypatch.setattr(page, "send", sent.append)
    monkeypatch.setattr(page._explored, "g", dataclasses.replace(page._explored.g, train_latents=torch.randn(100, 2)))
    page._asked(None, asked(page, n_centers=128), [])
    assert sent == [
        {
            "id": 3,
            "error": "The kernel could not do this: n_centers: got 128, expected at most the number of latents, 100.",
        }
    ]
    page._asked(None, asked(page, variance="network"), [])
    assert sent[1]["centers"] is None
    assert sent[1]["seconds"] > 0


@pytest.mark.parametrize(
    ("setting", "value"), [("n_centers", 7), ("curvature", 1.3), ("zeta", 2e-3), ("n_centers", 2), ("zeta", 1e-7)]
)
def test_a_first_state_between_and_beyond_the_sliders_steps_is_kept(g, setting, value):
    first = dataclasses.replace(FIRST, **{setting: value})
    page = widget.Variances(study.Explored.refitted(g, first))
    choices, place = page.scene["choices"][setting], page.scene["first"][setting]
    assert choices[place] == value
    assert choices == sorted(choices)
    assert page.answer(asked(page, **{setting: value}))["logs"] == next(iter(page.scene["tables"].values()))["logs"]


def test_a_decoder_that_is_no_chain_of_layers_is_shown_by_an_atlas(g, explored):
    class Other(torch.nn.Module):
        def forward(self, z):
            return 2 * g.vae.mean(z) - 1

    class Model(torch.nn.Module):
        mean = Other()

    data = dataclasses.replace(g.data, train_images=2 * g.data.train_images - 1)
    other = study.Explored(dataclasses.replace(g, vae=Model(), data=data), FIRST)
    atlas = scene.images(other)["atlas"]
    assert list(scene.images(explored)) == ["decoder"]
    assert (atlas["side"], atlas["size"]) == (25, 784)
    stored = np.frombuffer(base64.b64decode(atlas["data"]), "u1").reshape(25, 25, 784)
    corners = torch.stack([other.lower, other.upper])
    torch.testing.assert_close(
        torch.from_numpy(stored[[0, -1], [0, -1]] / 255), g.vae.mean(corners).double(), rtol=0, atol=1 / 255
    )
