"""Open JupyterLab on the notebooks, and say so where a display is missing or a port is taken.

``python -m geolib.companion.interface.lab``
"""

import argparse
import os
import socket
import sys

from geolib.companion.cache import store

_FIRST_PORT, _LAST_PORT = 8888, 8938


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_port(wanted: int | None) -> int:
    """``wanted`` where it is free, else the first free one from 8888.

    Raises:
        ValueError: where the wanted port, or every port of the range, is taken.
    """
    if wanted is not None:
        if not 1 <= wanted <= 65535:
            raise ValueError(f"PORT: got {wanted}, expected 1 to 65535")
        if not _is_free(wanted):
            raise ValueError(f"PORT: {wanted} is taken by another program; choose another, or leave it out")
        return wanted
    for port in range(_FIRST_PORT, _LAST_PORT + 1):
        if _is_free(port):
            return port
    raise ValueError(f"PORT: all from {_FIRST_PORT} to {_LAST_PORT} are taken; give a free one, `make lab PORT=9000`")


def has_display() -> bool:
    """Whether a browser window can be expected to open."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def command(port: int) -> list[str]:
    """The command that starts JupyterLab on ``port``, on this machine only."""
    words = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    words += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={store.PROJECT}"]
    words += ["--LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb"]
    if not has_display():
        words.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--ServerApp.allow_root=True")  # a container's only user; the server listens on loopback
    return words


def main(arguments: list[str] | None = None) -> int:
    """The command line; does not return while JupyterLab runs."""
    parser = argparse.ArgumentParser(prog="python -m geolib.companion.interface.lab", description=__doc__)
    parser.add_argument("--port", type=int)
    try:
        port = choose_port(parser.parse_args(arguments).port)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if not has_display():
        print("No display here, so no browser is opened: go to the address with the token that follows.")
        print(f"On a remote machine, first: ssh -L {port}:127.0.0.1:{port} THAT_MACHINE")
    sys.stdout.flush()
    words = command(port)
    os.execv(words[0], words)


if __name__ == "__main__":
    sys.exit(main())
