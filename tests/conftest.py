"""What all core tests share: one thread, seeded draws, float64 on request."""

import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from geolib.companion.figures.style import set_style

torch.set_num_threads(1)  # the tensors here are small; threads only wait for each other

# torch's own forward mode calls its own deprecated torch.jit.script on first use, and warnings are errors here
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


class Scheduler(LoadScopeScheduling):
    """Shares the tests among the processes of ``pytest --numprocesses=2``.

    The tests of the core go wherever there is room. Any other file stays in one process, as its tests share what takes
    long to make. (The groups of pytest-xdist 3.8 have no effect with pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        alone = ("core", "fuzzing", "paths", "plane", "solvers", "trials")
        return nodeid if Path(file).parent.name in alone else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduler(config, log)


@pytest.fixture(autouse=True)
def one_thread():
    """A test that changes the number of threads does not change it for the next."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def float64():
    """torch's default dtype for one test; restored, as other files rely on float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture
def style():
    """The project's style for one test, on no screen; no figure stays open."""
    backend = mpl.get_backend()
    mpl.use("agg")
    with mpl.rc_context():
        set_style()
        yield
    plt.close("all")
    mpl.use(backend)
