"""A real JupyterLab in a real browser: run all of notebook 02, move its first slider, see the map change."""

import contextlib
import json
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import Page, sync_playwright
from project import ROOT, TINY, clean_environment, literals, make_variable, run

from geolib.companion.cache import store
from geolib.companion.interface import lab

pytestmark = pytest.mark.slow

NOTEBOOK = "02_variance_rbf.ipynb"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PATIENCE = 120  # seconds for one step; each takes a few, more where the machine is busy
CELLS = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-CodeCell"


def strip(path):
    flags = shlex.split(make_variable("STRIP"))
    assert run([sys.executable, "-m", "nbstripout", *flags, path]).returncode == 0


class Lab:
    """JupyterLab as ``make lab`` starts it, on a folder, settings and a token of the test's own."""

    def __init__(self, folder, patch):
        self.root = folder / "root"
        (self.root / "notebooks").mkdir(parents=True)
        self.figures = folder / "figures"
        patch.setattr(store, "PROJECT", self.root)
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            patch.delenv(name, raising=False)  # no window of the server's own
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "lab.log"
        # no news and no update check, and every cell in the page, also those outside the window
        settings = {
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "notebook-extension/tracker": {"windowingMode": "none"},
        }
        for name, values in settings.items():
            path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        places = {
            "HOME": "home",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
            "MPLCONFIGDIR": "matplotlib",
            "GEOLIB_DERIVED": "derived",
            "GEOLIB_FIGURES": "figures",
        }
        for place in places.values():
            (folder / place).mkdir(exist_ok=True)
        self.environment = clean_environment(**{name: folder / place for name, place in places.items()})
        words = lab.command(port)
        assert "--no-browser" in words
        self.words = [*words, f"--IdentityProvider.token={self.token}", "--LabApp.extension_manager=readonly"]

    def __enter__(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.words, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self.wait(lambda: self.answers("status"), "the server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # ends the kernels too, which live in sessions of their own
            self.answers("shutdown", method="POST")
        for stop in (lambda: None, self.process.terminate, self.process.kill):
            stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
                return

    def answers(self, path, method="GET"):
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            body = response.read()
            return json.loads(body) if body else None

    def wait(self, condition, what):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                if condition():
                    return
            time.sleep(0.1)
        raise TimeoutError(f"{what}: not within {PATIENCE} s; {self.log.read_text()[-2000:]}")

    def kernel_is_ready(self):
        """Idle and connected to the page: the page's own indicator says idle before it is."""
        kernels = [session["kernel"] for session in self.answers("sessions")]
        return bool(kernels) and kernels[0]["execution_state"] == "idle" and kernels[0]["connections"] > 0


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Lab(tmp_path, monkeypatch) as running:
        yield running
    assert running.process.returncode is not None


@pytest.fixture
def page(tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium or chrome here (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            page.set_default_timeout(1000 * PATIENCE)
            yield page
            page.screenshot(path=tmp_path / "last.png")  # for whoever looks into a failure
        finally:
            browser.close()


@pytest.fixture
def watched(page):
    """A page, and what it complains of."""
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return page, complaints


def opened_and_run(server: Lab, page: Page, notebook: str):
    """Open a notebook in JupyterLab and have all its cells run. Returns a list that gets what other hosts are asked."""
    elsewhere = []
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((server.url, "data:", "blob:")) else elsewhere.append(request.url)
        ),
    )
    page.goto(f"{server.url}/lab/tree/notebooks/{notebook}?token={server.token}&reset", wait_until="domcontentloaded")
    page.locator(CELLS).first.wait_for()
    server.wait(server.kernel_is_ready, "a kernel connected to the page")
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()
    for _ in range(5):  # a click that comes too early is swallowed
        run_all(page)
        page.wait_for_timeout(500)
        if any(prompt != "[ ]:" for prompt in prompts(page)):
            break
    return elsewhere


def run_all(page: Page):
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()


def prompts(page: Page):
    """The prompts that a reader sees: a cell whose source is hidden shows none."""
    shown = (prompt.strip() for prompt in page.locator(f"{CELLS} .jp-InputPrompt").all_inner_texts())
    return [prompt for prompt in shown if prompt]


def picture(page: Page):
    """The bytes of the widget's image, as text; None while it is being replaced."""
    return page.evaluate(
        """async () => {
            try {
                const answer = await fetch(document.querySelector('.jp-Notebook img.widget-image').src);
                return Array.from(new Uint8Array(await answer.arrayBuffer())).join();
            } catch (error) { return null; }
        }"""
    )


def test_a_slider_moved_in_the_browser_redraws_the_map(server, watched):
    page, errors = watched
    path = server.root / "notebooks" / NOTEBOOK
    shutil.copy2(ROOT / "notebooks" / "colab.svg", path.parent)  # the badge, which no other host is asked for
    notebook = load_notebook_node(str(ROOT / "notebooks" / NOTEBOOK))
    (tagged,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    notebook = parameterize_notebook(notebook, {name: TINY[name] for name in literals(tagged)})
    nbformat.write(notebook, path)
    strip(path)
    stored = path.read_bytes()

    elsewhere = opened_and_run(server, page, NOTEBOOK)
    failed = page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]')
    end = time.monotonic() + PATIENCE
    while not all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts(page)):
        assert failed.count() == 0, failed.first.inner_text()
        assert time.monotonic() < end, prompts(page)
        page.wait_for_timeout(100)
    assert failed.count() == 0
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    hidden = [cell for cell in code if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert len(prompts(page)) == len(code) - len(hidden)
    # what a cell of hidden source says is seen all the same
    assert page.locator(".jp-Notebook .jp-RenderedMarkdown", has_text="What we see.").count() == len(hidden) > 0
    for figure in ("02_variance", "02_explorer"):
        assert (server.figures / f"{figure}.png").stat().st_size > 10_000

    page.locator(".jp-Notebook img.widget-image").wait_for()
    message = page.locator(".jp-Notebook .widget-html-content", has_text="refitted and redrawn in")
    message.wait_for()
    handle = page.locator('.jp-Notebook .noUi-handle[role="slider"]').first
    before, readout = picture(page), page.locator(".widget-readout").first.inner_text()
    assert before.startswith("137,80,78,71,")  # \x89PNG
    assert readout == "1.25"
    seen = []
    for key in ("ArrowRight", "ArrowLeft"):
        handle.focus()
        page.keyboard.press(key)
        end = time.monotonic() + PATIENCE
        while (now := picture(page)) in (None, seen[-1] if seen else before):
            assert time.monotonic() < end, f"the picture did not change after {key}"
            page.wait_for_timeout(50)
        seen.append(now)
        message.wait_for()
    assert page.locator(".widget-readout").first.inner_text() == readout
    assert seen[0] != before == seen[1]  # there and back

    page.keyboard.press("Control+s")
    server.wait(lambda: b'"image/png"' in path.read_bytes(), "the notebook is saved")
    assert errors == []
    assert elsewhere == []
    strip(path)
    assert path.read_bytes() == stored  # what a user saved in the browser strips back byte for byte


def test_the_server_starts_without_a_browser_and_ends_when_asked(monkeypatch, tmp_path):
    with Lab(tmp_path, monkeypatch) as running:
        assert running.answers("status")["kernels"] == 0
        with pytest.raises(ValueError, match="is taken by another program"):
            lab.choose_port(int(running.url.rpartition(":")[2]))
        with urllib.request.urlopen(f"{running.url}/lab?token={running.token}", timeout=30) as response:
            assert b"JupyterLab" in response.read()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
