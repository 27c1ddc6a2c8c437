"""What all core tests share: one thread, seeded draws, float64 on request."""

import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from geolib.companion.figures.style import set_style

torch.set_num_threads(1)  # the tensors here are small; threads only wait for each other

# torch's own forward mode calls its own deprecated torch.jit.script on first use, and warnings are errors here
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep a file that is not about the core in one process of ``pytest --numprocesses=2 --dist=loadgroup``.

    Its tests share what takes long to make. The core's tests go wherever there is room.
    """
    for item in items:
        if item.path.parent.name not in ("core", "paths", "plane", "solvers"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


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
