"""Notebook 01's study and panels: sizes, losses and latent space of the trained models."""

import dataclasses

import numpy as np
import pytest
import torch
from project import small_generator

from geolib.companion.figures import style
from geolib.companion.figures.linear_interpolation import training as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models.grid import LatentGrid
from geolib.companion.models.networks.vae import VAE, VAEConfig, n_parameters
from geolib.companion.models.recipes import recipe
from geolib.companion.models.training import TrainedVAE
from geolib.companion.studies.linear_interpolation import training as study

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]


def history(validation, training):
    entries = [{"phase": "elbo", "epoch": n, "training": 90.0 / n, "validation": 80.0 / n} for n in (1, 2)]
    entries.append({"phase": "elbo", "epoch": 3, "training": training, "validation": validation})
    return [*entries, {"phase": "variance", "epoch": 1, "training": -500.0, "validation": -400.0}]


def measured(g, **losses):
    """Three models with the given last losses (validation, training); the first is that of ``g``."""
    vaes = {"VAE": g.vae, "VAE1": VAE(VAEConfig(widths=(96, 48))), "VAE2": VAE(VAEConfig(widths=(6, 3)))}
    trained = {label: TrainedVAE(vae, history(*losses[label]), None) for label, vae in vaes.items()}
    return study.measure(trained, g.data)


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    return small_generator(tmp_path_factory)


@pytest.fixture(scope="module")
def found(g):
    return measured(g, VAE=(20.0, 19.0), VAE1=(18.0, 15.0), VAE2=(24.0, 24.5))


def test_sizes_and_losses(found):
    assert found.sizes == {label: n_parameters(trained.vae) for label, trained in found.trained.items()}
    assert found.losses == {"VAE": 20.0, "VAE1": 18.0, "VAE2": 24.0}
    assert found.gaps == {"VAE": 1.0, "VAE1": 3.0, "VAE2": -0.5}
    rows = {row["quantity"]: (row["value"], row["paper"]) for row in found.numbers}
    assert rows["parameters of VAE1 over VAE2"] == (found.sizes["VAE1"] / found.sizes["VAE2"], 16)
    assert rows["validation loss of VAE2"] == (24.0, None)


@pytest.mark.parametrize(
    ("losses", "effect", "gap"),
    [
        ({"VAE1": (18.0, 15.0), "VAE2": (24.0, 24.5)}, "25 % lower", "VAE1 has learned most by heart"),
        ({"VAE1": (30.0, 30.0), "VAE2": (24.0, 20.0)}, "25 % higher", "VAE2 has learned most by heart"),
        ({"VAE1": (18.0, 19.0), "VAE2": (24.0, 24.5)}, "25 % lower", "No model does worse"),
    ],
)
def test_words_follow_the_losses(g, losses, effect, gap):
    found = measured(g, VAE=(20.0, 20.0), **losses)
    assert found.effect_of_size == effect
    assert found.widest_gap.startswith(gap)


def test_neighbours_of_the_same_class(found):
    def share(places, labels):
        latents = torch.tensor(places, dtype=torch.float32)
        return study.Training(found.trained, latents, torch.tensor(labels)).share_beside_its_own_class

    places = [[0, 0], [0, 1], [9, 9], [9, 8]]
    assert share(places, [2, 2, 4, 4]) == 100
    assert share(places, [2, 4, 2, 4]) == 0  # an image is no neighbour of itself
    assert share([*places, [0, 3]], [2, 2, 4, 4, 4]) == 80
    distance = torch.cdist(found.latents, found.latents).fill_diagonal_(torch.inf)
    expected = (found.labels[distance.argmin(-1)] == found.labels).double().mean()
    assert found.share_beside_its_own_class == pytest.approx(100 * float(expected))


def test_the_curves_are_the_histories_of_the_first_phase(found):
    figure = panels.training_curves(found)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    assert figure.get_figwidth() == style.PAGE
    sizes = found.sizes
    assert [panel.get_title() for panel in figure.axes] == [f"{name}, {sizes[name]:,} parameters" for name in sizes]
    assert figure.axes[0].get_ylabel() == "loss [nats per image]"
    assert len({panel.get_ylim() for panel in figure.axes}) == 1
    for panel, trained in zip(figure.axes, found.trained.values(), strict=True):
        assert panel.get_xlabel() == "epoch"
        lines = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
        for loss in ("training", "validation"):
            assert lines[loss] == [[entry["epoch"], entry[loss]] for entry in trained.history[:3]]


def test_decoded_images_stand_where_their_latents_are(found):
    figure = panels.latent_space(found, side=5)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    scatter, images = figure.axes
    for panel in (scatter, images):
        assert (panel.get_xlabel(), panel.get_ylabel()) == ("$z_1$", "$z_2$")
    assert (scatter.get_xlim(), scatter.get_ylim()) == (images.get_xlim(), images.get_ylim())
    grid = LatentGrid.around(found.latents, resolution=5, margin=0)
    assert tuple(images.images[0].get_extent()) == pytest.approx(grid.extent)
    shown = np.asarray(images.images[0].get_array())
    top_left, bottom_right = shown[:28, :28], shown[-28:, -28:]
    np.testing.assert_allclose(top_left.ravel(), found.vae.mean(grid.points[-1, 0]), atol=1e-6)
    np.testing.assert_allclose(bottom_right.ravel(), found.vae.mean(grid.points[0, -1]), atol=1e-6)


def test_the_table_of_settings_follows_the_recipes():
    ours, theirs = recipe("digits"), recipe("michelis_becker_code")
    table = study.settings(ours, theirs)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert head[1:] == ["paper", "authors' code", "`michelis_becker_code` here", "`digits`, ours"]
    assert {len(row) for row in rows} == {5}
    found = {row[0]: row[1:] for row in rows}
    assert found["RBF: K; a; ζ"][1:] == [
        "4 per dimension; 1; 0.01 on [-1, 1]",
        "8; 1; 0.04 on [0, 1]",
        "64; 1.25; 0.001 on [0, 1]",
    ]
    brief = dataclasses.replace(theirs, n_centers=5, training=dataclasses.replace(theirs.training, epochs=77))
    changed = study.settings(ours, brief)
    assert "77 epochs" in changed
    assert "| 5; 1; 0.04 on [0, 1] |" in changed
