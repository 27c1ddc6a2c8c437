"""One run of a notebook, and what made its figures: commit, parameters, recipes, versions, device, data."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from IPython import get_ipython
from IPython.display import Markdown, display

from geolib.companion.cache import devices, store
from geolib.companion.cache.profiles import check_profile
from geolib.companion.data.datasets import ImageData
from geolib.companion.figures.style import set_style
from geolib.companion.models.convolutional import TrainedDecoder
from geolib.companion.models.generators import Generator, MeanGenerator
from geolib.companion.models.recipes import AnyRecipe, recipe
from geolib.companion.models.training import TrainedVAE
from geolib.companion.studies.evidence import Verdict
from geolib.variance import Ensemble

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "seaborn",
    "papermill",
    "ipywidgets",
    "jupyterlab",
)

_RESOLUTION = {"quick": 64, "paper": 160, "full": 160}


@dataclass
class Run:
    """One execution of a notebook: the name its figures start with, its settings, its device and the data it used."""

    notebook: str
    """e.g. ``"04_monte_carlo"``"""
    profile: str
    """``"quick"``, ``"paper"`` or ``"full"``"""
    seed: int
    device: torch.device
    parameters: dict[str, Any]
    """the names of the tagged cell and the values they had"""
    data: dict[str, ImageData] = field(default_factory=dict)
    """data sets in use, by name"""
    recipes: dict[str, AnyRecipe] = field(default_factory=dict)
    """recipes in use, by name"""
    _loads: dict[Callable[[], ImageData], Callable[[], ImageData]] = field(default_factory=dict, repr=False)
    """what loads a recipe's data, each with one that reads only once"""

    @property
    def resolution(self) -> int:
        """Points of a map along each axis."""
        return _RESOLUTION[self.profile]

    def steps(self, most: int) -> int:
        """The steps after which a curve is left as it is: ``most``, in a quick run a fifth of them.

        Curves of the rough metrics of a decoder that is hardly trained take longer than all else in a quick run.
        """
        return most // 5 if self.profile == "quick" else most

    def recipe(self, name: str, *, seed: int | None = None, **changes: Any) -> AnyRecipe:
        """The recipe of that name for this run's profile; its data are noted, and named where they are a substitute.

        ``changes`` are settings of the recipe that a notebook studies, e.g. ``n_centers``.
        """
        chosen = replace(recipe(name, self.profile, seed=self.seed if seed is None else seed), **changes)
        # the same data serve other seeds and other settings
        chosen = replace(chosen, load=self._loads.setdefault(chosen.load, functools.cache(chosen.load)))
        self.recipes.setdefault(name, chosen)
        data = chosen.data
        if data.name not in self.data:
            self.data[data.name] = data
            print(f"{data.name}: {len(data.train_images):,} training and {len(data.test_images):,} test images")
            if data.notice:
                print(f"Data: {data.notice}.")
        return chosen

    def trained(self, name: str, *, seed: int | None = None) -> TrainedVAE | TrainedDecoder | Ensemble:
        """The model of that recipe, loaded from ``data/derived`` or trained first."""
        return self.recipe(name, seed=seed).trained(device=self.device)

    def generator(self, name: str, *, seed: int | None = None, **changes: float) -> Generator:
        """The VAE of that recipe with its fitted variance and its metric; ``changes`` as for ``recipe``."""
        return self.recipe(name, seed=seed, **changes).generator(device=self.device)

    def mean_generator(self, name: str, *, seed: int | None = None, **changes: Any) -> MeanGenerator:
        """The decoder's mean of that recipe; ``changes`` as for ``recipe``."""
        return self.recipe(name, seed=seed, **changes).mean_generator(device=self.device)

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters, recipes and data in use, as JSON values: what a measurement that is kept depends on."""
        return {
            "parameters": self.parameters,
            "recipes": {name: chosen.as_dict() for name, chosen in self.recipes.items()},
            "data": {name: data.fingerprint for name, data in self.data.items()},
        }

    @property
    def notice(self) -> str:
        """What a reader of a figure must know of its data; empty for verified full data."""
        return "; ".join(dict.fromkeys(data.notice for data in self.data.values() if data.notice))

    @property
    def untestable(self) -> str:
        """Why this run decides no claim of a paper; empty where it does."""
        if any(data.substitute for data in self.data.values()):
            return "substitute data"
        return "quick settings" if self.profile == "quick" else ""

    def judge(self, claim: dict[str, Any]) -> dict[str, Any]:
        """A claim from ``Claim.decide`` with this run's verdict: there is none on substitute data or quick settings."""
        if not self.untestable:
            return claim
        return {**claim, "verdict": str(Verdict.NOT_TESTABLE), "reason": self.untestable}

    def see(self, text: str) -> None:
        """Show what a reader sees in the figure above. Numbers in ``text`` are filled in from the run, never typed."""
        show_markdown(text)

    def sidecar(self) -> dict[str, Any]:
        """Everything above as JSON values. No time and no host: the same run gives the same bytes."""
        return {
            "notebook": self.notebook,
            "commit": commit(),
            "profile": self.profile,
            "parameters": self.parameters,
            "seed": self.seed,
            "recipes": {name: chosen.as_dict() for name, chosen in self.recipes.items()},
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else platform.machine(),
            "threads": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "data": [
                {
                    "name": data.name,
                    "source": data.source,
                    "verified": data.verified,
                    "notice": data.notice,
                    "sha256": data.checksums,
                    "classes": list(data.classes),
                    "train_images": len(data.train_images),
                    "test_images": len(data.test_images),
                }
                for data in self.data.values()
            ],
        }


def begin(notebook: str, *, profile: str = "paper", seed: int = 0, device: str = "auto", **parameters: object) -> Run:
    """Begin a notebook: set the style, choose the device, and say what runs.

    Args:
        notebook: its file's name without the suffix.
        profile: ``"quick"``, ``"paper"`` or ``"full"``: how long models are trained, how fine maps are.
        seed: of everything that is drawn.
        device: ``"auto"``, CUDA where torch sees one, or any name that torch knows.
        **parameters: what else the tagged cell holds; recorded with every figure.

    Raises:
        ValueError: for a profile or a device that there is not.
    """
    run = Run(
        notebook,
        check_profile(profile),
        seed,
        devices.resolve(device),
        {"profile": profile, "seed": seed, **parameters},
    )
    set_style()
    threads = f"{torch.get_num_threads()} threads"
    print(f"{notebook}: {profile} profile, commit {commit()}, torch {torch.__version__}, {run.device}, {threads}")
    return run


def show_markdown(text: str) -> None:
    """Show ``text`` as Markdown where there is a notebook to show it in."""
    if get_ipython() is not None:
        display(Markdown(text))


def commit() -> str:
    """The checkout's commit, with ``+changes`` where files differ from it; ``unknown`` outside a git checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(store.PROJECT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    if not (store.PROJECT / "geolib").is_dir():  # installed, as on Colab: a checkout around it is somebody else's
        return "unknown"
    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
