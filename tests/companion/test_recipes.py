"""recipes: every model under one name, the same for all notebooks; profiles that there are and that there are not."""

import dataclasses

import pytest
import torch

from geolib.companion.cache import profiles
from geolib.companion.data import datasets, moons
from geolib.companion.models import recipes
from geolib.companion.models.networks.schedule import TrainingConfig
from geolib.companion.models.networks.vae import VAEConfig
from geolib.companion.models.recipes import ConvolutionalRecipe, Recipe, recipe

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("name", recipes.NAMES)
@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_a_recipe_names_its_profile_and_seed(name, profile):
    chosen = recipe(name, profile, seed=3)
    assert (chosen.name, chosen.training.seed) == (name, 3)
    described = chosen.as_dict()
    expected = {"training": dataclasses.asdict(chosen.training)}
    if not isinstance(chosen, ConvolutionalRecipe):  # which has one architecture
        expected["model"] = chosen.model.as_dict()
    if isinstance(chosen, Recipe):  # the others have no variance
        names = ("n_centers", "curvature", "zeta", "fit", "target")
        expected["variance"] = {name: getattr(chosen, name) for name in names}
    assert described == expected
    assert recipe(name, profile, seed=3).as_dict() == described
    assert recipe(name, profile, seed=4).as_dict() != described


DIGITS = ("digits", "digits_large", "digits_small")


@pytest.mark.parametrize("name", recipes.NAMES)
def test_the_quick_profile_only_trains_for_less_time(name):
    quick, paper, full = (recipe(name, profile) for profile in profiles.PROFILES)
    assert quick.training.epochs < paper.training.epochs
    # the paper's rate is too small for so few steps, and few images would get fewer still
    other = {"learning_rate", "filled_to"} if name in DIGITS else {"learning_rate"} if name == "fashion" else set()
    untimed = [
        {key: value for key, value in chosen.as_dict()["training"].items() if "epochs" not in key and key not in other}
        for chosen in (quick, paper)
    ]
    assert untimed[0] == untimed[1]
    assert [chosen.as_dict().get("model") for chosen in (quick, paper)] == 2 * [paper.as_dict().get("model")]
    assert [chosen.as_dict().get("variance") for chosen in (quick, paper)] == 2 * [paper.as_dict().get("variance")]
    assert paper.as_dict() == full.as_dict()


def test_labels_tell_the_models_apart():
    labels = [chosen.label for chosen in map(recipe, recipes.NAMES) if isinstance(chosen, Recipe)]
    assert len(set(labels)) == len(labels) >= 4


@pytest.mark.parametrize("name", ["digits", "digits_large", "digits_small"])
def test_digits_are_those_of_the_paper(monkeypatch, name):
    asked = []
    monkeypatch.setattr(datasets, "load", lambda *what, **how: asked.append((what, how)))
    recipe(name).load()
    assert asked == [(("mnist",), {"classes": (2, 4, 5, 7)})]


@pytest.mark.parametrize("name", ["few_digits", "few_digits_small"])
@pytest.mark.parametrize("source", ["auto", "bundled"])
def test_few_digits_are_the_bundled_ones_wherever_there_are_more(monkeypatch, tmp_path, name, source):
    monkeypatch.setenv("GEOLIB_DATA_SOURCE", source)
    monkeypatch.setenv("GEOLIB_DATA", str(tmp_path))
    data = recipe(name).load()
    assert (data.name, data.source, data.verified) == ("few_digits", "bundled", True)
    assert (len(data.train_images), len(data.test_images), data.classes) == (1600, 400, (2, 4, 5, 7))
    # asked for by name, they stand for nothing else
    assert (data.notice, data.substitute) == ("", False)
    assert datasets.load("mnist", source="bundled").substitute


def test_few_digits_are_learnt_by_the_models_of_many():
    for few, many in (("few_digits", "digits"), ("few_digits_small", "digits_small")):
        assert recipe(few).as_dict() == recipe(many).as_dict()


@pytest.mark.parametrize(("profile", "n"), [("quick", 400), ("paper", 1000)])
def test_moons_of_one_seed_are_the_same_data(profile, n):
    data = recipe("moons", profile, seed=5).load()
    assert len(data.train_images) + len(data.test_images) == n
    torch.testing.assert_close(data.train_images, moons.load(n, seed=5).train_images)
    assert recipe("moons", profile, seed=6).load().checksums != data.checksums


def test_a_recipe_makes_a_generator_with_its_own_variance(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    model = VAEConfig(data_dim=2, latent_dim=2, widths=(8, 4))
    training = TrainingConfig(epochs=1, variance_epochs=1, seed=2)
    made = [
        Recipe("m", "it", lambda: moons.load(60), model, training, n_centers=centers, curvature=2.0, zeta=zeta)
        for centers, zeta in ((4, 1e-3), (6, 1e-1))
    ]
    first, second = (chosen.generator() for chosen in made)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1, "the model was trained twice"
    assert (len(first.rbf.centers), len(second.rbf.centers)) == (4, 6)
    assert not first.vae.training
    # far from all data only zeta is left of the precision
    far = torch.full((1, 2), 1e3)
    torch.testing.assert_close(first.rbf(far), torch.full((1, 2), 1e-3**-0.5))
    torch.testing.assert_close(second.rbf(far), torch.full((1, 2), 1e-1**-0.5))
    points = first.train_latents[:3]
    torch.testing.assert_close(first.metric(points), made[0].generator().metric(points))


def test_what_is_no_recipe_or_no_profile():
    with pytest.raises(ValueError, match="recipe: got 'cats', expected one of 'digits', 'digits_large', "):
        recipe("cats")
    with pytest.raises(ValueError, match="profile: got 'fast', expected one of 'quick', 'paper', 'full'"):
        recipe("digits", "fast")
    for profile in profiles.PROFILES:
        assert profiles.check_profile(profile) == profile


def test_a_recipe_reads_its_data_once(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    chosen = recipe("moons", "quick")
    read = []

    def load():
        read.append(1)
        return moons.load(100)

    brief = dataclasses.replace(chosen.training, epochs=1)
    dataclasses.replace(chosen, load=load, training=brief, n_centers=4).generator()
    assert read == [1]
