"""Which device a notebook runs on, decided once."""

import torch


def resolve(name: str) -> torch.device:
    """``"auto"``: CUDA where there is one, else the CPU; or any name that torch knows.

    Raises:
        ValueError: for a name torch does not know, or a CUDA device on a machine without one.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: got {name!r}, expected 'auto', 'cpu', 'cuda' or another torch device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {name!r}, but torch sees no CUDA device here; use 'auto' or 'cpu'")
    return device
