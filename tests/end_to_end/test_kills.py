"""Runs that are killed, run beside each other, or run out of disk: nothing is lost, and nothing temporary stays.

``make soak`` kills a run of the real notebooks twenty times (``GEOLIB_SOAK=1``); here it is stand-ins, three times.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import nbformat
import pytest
from project import NOTEBOOKS, SOAK, clean_environment, copy_checkout, declared_figures, executed, make

pytestmark = [
    pytest.mark.slow,
    pytest.mark.soak,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system"),
]

# As a notebook works: artefacts that take long are built once and kept, figures are written, each in several parts,
# with the slow moments where a kill does most harm: in the middle of a file.
STAND_IN = """
import json, time
from geolib.companion.cache import progress, store

def slowly(path, text):
    with path.open("w") as file:
        for k in range(4):
            file.write(text)
            file.flush()
            time.sleep(0.02)

kept = []
for k in range(3):
    progress.say(f"artefact {k}")
    made = store.cached(
        f"artefact-{k}",
        {"seed": seed},
        ".txt",
        build=lambda path: slowly(path, f"{k} {seed}. " * 1000),
        load=lambda path: path.read_text(),
    )
    kept.append(len(made))
sidecar = {"caption": "", "numbers": [], "claims": [], "data": [], "kept": kept}
sidecar |= {"profile": "quick", "commit": "?", "device": "cpu", "threads": 1}
for name in FIGURES:
    for suffix, text in (
        (".png", "picture"), (".pdf", "print"), (".json", None), *[(".gif", "animation")] * (name in ANIMATED)
    ):
        with store.replacing(store.figures_directory() / f"{name}{suffix}") as temporary:
            slowly(temporary, text) if text else temporary.write_text(json.dumps({"figure": name, **sidecar}))
"""
AFTER = "import time; time.sleep(0.3)"  # between the last figure and the notebook's end
RUN = ("01_training", "00_tour", "04_monte_carlo") if SOAK else ("01_training",)
# These hold times, which are measured anew where the run was killed before they were kept.
TIMED = ("06_work_precision", "06_success", "15_curves")


def light_copy(folder):
    """A copy whose notebooks are stand-ins, and whose package does without torch."""
    copy_checkout(folder)
    (folder / "geolib" / "__init__.py").write_text("")
    for name in RUN:
        path = folder / "notebooks" / f"{name}.ipynb"
        code = STAND_IN.replace("FIGURES:", f"{declared_figures(path)}:").replace("ANIMATED", "()")
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
        notebook.metadata.kernelspec.language = "python"
        notebook.cells = [nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})]
        notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in (code, AFTER)]
        nbformat.write(notebook, path)
    return folder


def words(*notebooks):
    return [f"NOTEBOOKS={' '.join(notebooks)}", "-j2", "quick"]


def killed_after(folder, seconds, *arguments):
    """Whether a make was killed that many seconds after it began; it may have come to its end before."""
    process = subprocess.Popen(
        ["make", *arguments],
        cwd=folder,
        env=clean_environment(PYTHONPATH=folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # kernels are in sessions of their own: they end when they notice
            process.wait()
    return False


def made(folder):
    """Whatever a run left in the folders that it writes into, but for how long it took: contents by path."""
    files = [path for place in ("figures/quick", "data") for path in (folder / place).rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {
        name: contents
        for name, contents in found.items()
        if "/durations/" not in name and not name.endswith(".ipynb") and not any(timed in name for timed in TIMED)
    }


def temporary(folder):
    """What a finished run should not leave."""
    places = [folder, folder / "notebooks", *(folder / place for place in ("figures", "data"))]
    every = [path for place in places[:2] for path in place.glob(".*")]
    every += [path for place in places[2:] for path in place.rglob("*")]
    known = {".venv", ".gitignore", ".ci", ".data", ".git", ".github"}
    return sorted(
        str(path.relative_to(folder))
        for path in every
        if (path.name.startswith(".") and path.name not in known) or path.suffix in (".lock", ".part", ".refused")
    )


class Undisturbed(NamedTuple):
    """What a run leaves that nobody disturbs, and how long it takes."""

    files: dict[str, bytes]
    seconds: float


def undisturbed(folder, *arguments):
    begun = time.monotonic()
    done = make(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert temporary(folder) == []
    return Undisturbed(made(folder), time.monotonic() - begun)


def survives(folder, expected, kills, *arguments):
    """Kill ``kills`` runs in ``folder``, then let one end: it leaves what an undisturbed one does."""
    seed = int(os.environ.get("GEOLIB_SOAK_SEED", random.SystemRandom().randrange(2**32)))
    draw = random.Random(seed)
    print(f"GEOLIB_SOAK_SEED={seed}")  # which pytest shows where this fails
    for k in range(kills):
        if not killed_after(folder, expected.seconds * (k + draw.random()) / kills, *arguments):
            # the kills before left little to do: begin anew
            shutil.rmtree(folder / "figures" / "quick", ignore_errors=True)
            shutil.rmtree(folder / "data" / "derived", ignore_errors=True)
    done = make(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert made(folder) == expected.files
    again = make(folder, *arguments)
    assert (again.returncode, executed(again)) == (0, []), again.stdout + again.stderr
    assert temporary(folder) == []


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    return undisturbed(light_copy(tmp_path_factory.mktemp("undisturbed")), *words(*RUN))


def test_killed_runs_are_finished_by_the_next(light, tmp_path):
    survives(light_copy(tmp_path), light, 20 if SOAK else 3, *words(*RUN))


@pytest.mark.skipif(not SOAK, reason="the real notebooks, killed twenty times: make soak")
def test_killed_runs_of_the_real_notebooks_are_finished_by_the_next(tmp_path):
    copies = [copy_checkout(tmp_path / name) for name in ("undisturbed", "killed")]
    chosen = os.environ.get("GEOLIB_SOAK_NOTEBOOKS", "").split() or [path.stem for path in NOTEBOOKS]
    survives(copies[1], undisturbed(copies[0], *words(*chosen)), 20, *words(*chosen))


def test_two_makes_at_once_end_as_one_does(light, tmp_path):
    folder = light_copy(tmp_path)
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: make(folder, *words(*RUN)), range(2)))
    assert [done.returncode for done in both] == [0, 0], [done.stdout + done.stderr for done in both]
    assert made(folder) == light.files
    assert temporary(folder) == []


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, and what sets it to be read only or not."""

    def mount(options, *place):
        return subprocess.run(["mount", *place, "-o", options, tmp_path], capture_output=True, text=True, check=False)

    if shutil.which("mount") is None or mount("size=64m", "-t", "tmpfs", "tmpfs").returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield tmp_path, lambda options: mount(f"remount,{options}").check_returncode()
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_disk_that_is_full_or_may_only_be_read_is_named_and_loses_nothing(light, disk):
    place, remount = disk
    folder = light_copy(place / "checkout")
    ballast = place / "ballast"
    for free in (0, 1 << 15):  # when it begins, and in the middle
        with ballast.open("wb", buffering=0) as file:
            left = shutil.disk_usage(place).free - free
            assert left > 0
            while left > 0:
                left -= file.write(bytes(min(left, 1 << 20)))
        done = make(folder, *words(*RUN))
        assert done.returncode != 0
        # make's own stamp is the first file of a run
        own = f"cannot write {folder}/.*: No space left on device; the file is as it was before"
        assert re.search(rf"{own}|figures/quick/\.data: No space left on device", done.stderr)
        assert temporary(folder) == []
        ballast.unlink()
    done = make(folder, *words(*RUN))
    assert done.returncode == 0, done.stderr
    assert made(folder) == light.files
    remount("ro")
    done = make(folder, *words(*RUN))
    assert (done.returncode, executed(done)) == (0, []), done.stderr
    remount("rw")
    os.utime(folder / "notebooks" / f"{RUN[0]}.ipynb")
    remount("ro")
    done = make(folder, *words(*RUN))
    remount("rw")
    assert done.returncode != 0
    assert f"cannot write into {folder}/figures/quick: Read-only file system; nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert made(folder) == light.files
