"""Measurements that hold times are made once and kept, so that figures made from them are the same in every run."""

import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import geolib
from geolib.companion.cache import store


def code() -> str:
    """Twelve hex digits for the core's source code: what it was that was measured."""
    folder = Path(geolib.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.py") if "companion" not in path.relative_to(folder).parts):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def kept(name: str, configuration: dict[str, Any], measure: Callable[[], Any]) -> Any:
    """What ``measure`` returns, from ``data/derived`` where the same was measured before.

    It is measured anew when the core's code, torch, the number of threads, the machine's kind or the configuration
    change, and after ``make clean``.

    Args:
        name: what it is, for the reader of the directory.
        configuration: everything else it depends on, as JSON values (the data's fingerprint included).
        measure: returns JSON values.
    """
    everything = {
        **configuration,
        "code": code(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }

    def build(path: Path) -> None:
        path.write_text(json.dumps(measure(), allow_nan=False), encoding="utf-8")

    return store.cached(name, everything, ".json", build=build, load=store.read_json)
