"""Tensors and their metadata in one safetensors file, with a checksum that is checked on reading."""

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geolib.companion.cache import store


def _sum(tensors: dict[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata to ``path``, beside it first and then in one step."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    with store.replacing(path) as temporary:
        try:
            # one entry, as several come in any order: the same weights are the same bytes
            save_file(tensors, temporary, metadata={"geolib": f"{_sum(tensors, text)} {text}"})
        except SafetensorError as error:  # a full disk is none of OSError there
            raise OSError(str(error)) from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and metadata of a file that ``save`` wrote.

    Raises:
        ValueError: for a file that is truncated, altered, or not one of ours, with the expected and the found checksum.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    expected, _, text = metadata.get("geolib", "").partition(" ")
    if not text:
        raise ValueError(f"{path}: has no checksum of its contents, so it was not written by this project")
    found = _sum(tensors, text)
    if expected != found:
        raise ValueError(f"{path}: expected checksum {expected}, found {found}")
    return tensors, json.loads(text)


def load_made_for(path: Path, configuration: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``load`` of a file whose metadata hold this configuration, beside whatever else.

    Raises:
        ValueError: as ``load``, and for another configuration.
    """
    tensors, metadata = load(path)
    made_for = {part: metadata.get(part) for part in configuration}
    if made_for != json.loads(json.dumps(configuration)):
        raise ValueError(f"made for another configuration: {made_for}")
    return tensors, metadata


def check_shapes(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise where tensors have other names or shapes than a model's.

    Raises:
        ValueError: naming the first that differs.
    """
    for name in (*expected, *tensors):
        found, wanted = (tuple(x[name].shape) if name in x else None for x in (tensors, expected))
        if found != wanted:
            raise ValueError(f"weights of another model: {name} has shape {found}, expected {wanted}")


def load_plain(contents: bytes) -> dict[str, Tensor]:
    """The tensors (on the CPU) of a state dict that others published as torch writes it. Nothing in it is executed.

    Raises:
        ValueError: for anything but a state dict of tensors; the message says what was found.
    """
    try:
        with warnings.catch_warnings():  # torch warns of other pickles before it refuses them
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(contents), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in many ways that mean the same
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("a state dict of tensors is expected")
    return dict(state)
