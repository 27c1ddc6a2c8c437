"""lab: which port is chosen, what is said where it is taken, and whether a browser is opened."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from project import ROOT, clean_environment, run

from geolib.companion.cache import store
from geolib.companion.interface import lab

pytestmark = pytest.mark.smoke


@pytest.fixture
def listen():
    """Listen on a free port of this machine, as another program would; give it back after the test."""
    sockets = []

    def listen(address="127.0.0.1", port=0):
        other = socket.socket()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sockets.append(other)
        other.bind((address, port))
        other.listen()
        return other.getsockname()[1]

    yield listen
    for other in sockets:
        other.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def ports(monkeypatch, listen):
    """A range of three ports of the test's own, the first of them taken."""
    for _ in range(50):
        first = listen()
        if all(lab._is_free(port) for port in (first + 1, first + 2)):
            break
    monkeypatch.setattr(lab, "_FIRST_PORT", first)
    monkeypatch.setattr(lab, "_LAST_PORT", first + 2)
    return range(first, first + 3)


def test_a_free_port_is_given_as_wanted():
    port = free_port()
    assert lab.choose_port(port) == port


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_refused(listen, address):
    port = listen(address)
    with pytest.raises(ValueError, match=f"PORT: {port} is taken by another program; choose another, or leave it out"):
        lab.choose_port(port)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range_is_refused(port):
    with pytest.raises(ValueError, match=f"PORT: got {port}, expected 1 to 65535"):
        lab.choose_port(port)


def test_the_first_free_port_is_chosen(ports, listen):
    assert lab.choose_port(None) == ports[1]
    listen(port=ports[1])
    assert lab.choose_port(None) == ports[2]


def test_a_range_without_a_free_port_is_an_error(ports, listen):
    for port in ports[1:]:
        listen(port=port)
    with pytest.raises(ValueError, match=f"PORT: all from {ports[0]} to {ports[2]} are taken; give a free one, "):
        lab.choose_port(None)


def without_display(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("platform", "display", "opens"),
    [
        ("linux", None, False),
        ("linux", "DISPLAY", True),
        ("linux", "WAYLAND_DISPLAY", True),
        ("darwin", None, True),
        ("win32", None, True),
    ],
)
def test_a_browser_is_opened_where_there_is_a_display(*, monkeypatch, platform, display, opens):
    without_display(monkeypatch)
    monkeypatch.setattr(sys, "platform", platform)
    if display:
        monkeypatch.setenv(display, ":0")
    assert ("--no-browser" in lab.command(8901)) == (not opens)


def test_the_command_serves_this_machine_only():
    words = lab.command(8901)
    assert words[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--ServerApp.ip=127.0.0.1" in words
    assert "--ServerApp.port=8901" in words
    assert "--ServerApp.port_retries=0" in words  # the port that was promised, or an error
    assert f"--ServerApp.root_dir={store.PROJECT}" in words
    (start,) = [word.split("/lab/tree/")[1] for word in words if "default_url" in word]
    assert (store.PROJECT / start).is_file()
    assert ("--ServerApp.allow_root=True" in words) == (hasattr(os, "geteuid") and os.geteuid() == 0)
    assert not any("token" in word or "password" in word for word in words)  # Jupyter makes one of its own


def test_without_a_display_the_address_is_explained(monkeypatch, capfd):
    without_display(monkeypatch)
    started = []
    monkeypatch.setattr(os, "execv", lambda path, words: started.append((path, words)))
    port = free_port()
    lab.main(["--port", str(port)])
    assert started == [(sys.executable, lab.command(port))]
    said = capfd.readouterr().out
    assert "No display here, so no browser is opened" in said
    assert f"ssh -L {port}:127.0.0.1:{port}" in said


def make(*arguments):
    # -o: an environment that is older than requirements.lock is not set up anew by a test
    return run(["make", "-o", ".venv/.ready", f"BIN={os.path.dirname(sys.executable)}", *arguments])


@pytest.mark.slow
def test_make_lab_says_that_the_port_is_taken(listen):
    port = listen()
    done = make("lab", f"PORT={port}")
    assert done.returncode != 0
    assert f"PORT: {port} is taken by another program; choose another, or leave it out" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("port", "said"), [("99999", "PORT: got 99999, expected 1 to 65535"), ("x", "'x'")])
def test_make_lab_says_what_a_port_may_be(port, said):
    done = make("lab", f"PORT={port}")
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups on this system")
def test_make_lab_serves_those_with_the_token_on_this_machine(tmp_path):
    port = free_port()
    places = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = clean_environment(**dict.fromkeys(places, tmp_path), DISPLAY="", WAYLAND_DISPLAY="")
    words = ["make", "-o", ".venv/.ready", f"BIN={os.path.dirname(sys.executable)}", "lab", f"PORT={port}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def status(query=""):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status{query}", timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    try:
        for _ in range(600):
            said = (tmp_path / "log").read_text()
            if found := re.search(rf"http://127\.0\.0\.1:{port}/lab/\S*\?token=(\w{{32,}})", said):
                break
            assert server.poll() is None, said
            time.sleep(0.2)
        assert found, said
        assert "No display here, so no browser is opened" in said
        assert [status(), status("?token=guessed"), status(f"?token={found[1]}")] == [403, 403, 200]
        with pytest.raises(OSError, match=r"refused|timed out|unreachable|not available"):
            socket.create_connection(("127.0.0.2", port), timeout=5)  # another address of the same machine
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
