"""What made a figure: commit, parameters, seed, versions, device, threads, data."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from typing import Any

import torch

from geolib.companion.cache import store
from geolib.companion.data.datasets import ImageData

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


@dataclass
class Run:
    """One execution of a notebook: the name its figures start with, its parameters, its data and its device."""

    notebook: str
    """e.g. ``"04_monte_carlo"``"""
    parameters: dict[str, Any]
    """the tagged cell's names and the values they had"""
    device: torch.device
    data: ImageData | None = None

    def __post_init__(self) -> None:
        threads = torch.get_num_threads()
        print(f"{self.notebook}: commit {commit()}, torch {torch.__version__}, {self.device}, {threads} threads")
        if self.data is not None and self.data.notice:
            print(f"Data: {self.data.notice}.")

    def sidecar(self) -> dict[str, Any]:
        """Everything above as JSON values. No time and no host: the same run gives the same bytes."""
        data = self.data
        return {
            "notebook": self.notebook,
            "commit": commit(),
            "parameters": self.parameters,
            "seed": self.parameters.get("seed"),
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else platform.machine(),
            "threads": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "data": None
            if data is None
            else {
                "name": data.name,
                "source": data.source,
                "verified": data.verified,
                "notice": data.notice,
                "sha256": data.sums,
                "classes": list(data.classes),
                "train_images": len(data.train_images),
                "test_images": len(data.test_images),
            },
        }


def commit() -> str:
    """The checkout's commit, with ``+changes`` where files differ from it; ``unknown`` outside a git checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(store.PROJECT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
