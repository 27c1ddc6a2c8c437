"""The explorer as one HTML file that needs no kernel and no other host, and a picture of it: ``make explorer``."""

import argparse
import html
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from geolib.companion.cache import progress, store
from geolib.companion.cache.profiles import PROFILES
from geolib.companion.interface.explorer import module, scene
from geolib.companion.models.recipes import recipe
from geolib.companion.studies.linear_interpolation import explorer as study

NAME = "explorer.html"
TITLE = "Straight lines and shortest curves in a latent space"
CURVATURES = (0.5, 1.25, 3.0)
CENTERS = (16, 64, 128)
ZETAS = (1e-5, 1e-3, 1e-1)
_N_PAIRS = 20
ENSEMBLE = "digits_decoders"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
_WIDTH, _HEIGHT = 1280, 800  # of the picture

# Nothing but what stands in the file: a browser refuses every request.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ margin: 0; background: #ffffff; color: #1a1a1a; font-family: system-ui, sans-serif; }}
h1 {{ font-size: 20px; margin: 0 auto; padding: 10px 8px 2px; max-width: 1240px; box-sizing: border-box; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #16181b; color: #ececec; }} }}
{style}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<div id="explorer"></div>
</main>
<script type="application/json" id="scene">{scene}</script>
<script type="module">
{source}
mount(document.getElementById("explorer"), {{ scene: JSON.parse(document.getElementById("scene").textContent) }});
</script>
</body>
</html>
"""


def page(given: dict[str, Any]) -> str:
    """The HTML of a scene."""
    return _PAGE.format(
        policy=html.escape(_POLICY),
        title=html.escape(TITLE),
        style=module.style(),
        source=module.source(),
        # no text of the scene can end its element
        scene=json.dumps(given, allow_nan=False).replace("<", "\\u003c"),
    )


def computed(profile: str, *, name: str = "digits", seed: int = 0, n_pairs: int = _N_PAIRS) -> dict[str, Any]:
    """A scene with the tables of all settings that the page's sliders reach."""
    chosen = recipe(name, profile, seed=seed)
    g = chosen.generator()
    first = study.Setting("rbf", chosen.curvature, chosen.n_centers, chosen.zeta)
    members = recipe(ENSEMBLE, profile, seed=seed).trained()
    found = study.measure(g, first, n_pairs=n_pairs, seed=seed, members=members)
    offered = scene.choices(found.explored, curvature=CURVATURES, n_centers=CENTERS, zeta=ZETAS)
    run = {"recipe": name, "profile": profile, "seed": seed, "ensemble": ENSEMBLE}
    given = scene.scene(found, offered, run=run, notice=chosen.data.notice)
    others = [setting for setting in scene.every(offered) if scene.key(setting, offered) not in given["tables"]]
    with progress.bar(total=len(others), description="tables", unit=" settings") as bar:
        for setting in others:
            scene.add(given, found.explored, setting, seed=seed)
            bar.update()
    return given


def picture(page_file: Path, path: Path) -> None:
    """What a browser shows of a page, as a PNG of few colours.

    Raises:
        RuntimeError: where there is no Chromium or Chrome, or it draws nothing.
    """
    if BROWSER is None:
        raise RuntimeError("no chromium or chrome here (Debian: apt-get install chromium), which draws the picture")
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn.png"
        words = [BROWSER, "--headless", *FLAGS, "--hide-scrollbars", f"--user-data-dir={folder}/user"]
        words += [
            f"--window-size={_WIDTH},{_HEIGHT}",
            f"--screenshot={drawn}",
            "--virtual-time-budget=5000",
            page_file.absolute().as_uri(),
        ]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        if not drawn.exists():
            raise RuntimeError(f"{BROWSER} drew nothing: {done.stderr.strip()[-500:]}")
        with Image.open(drawn) as image:
            # 256 colours, the rare ones among them: the curve is orange
            image.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m geolib.companion.interface.explorer.page", description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="paper")
    parser.add_argument("--picture", type=Path, help="draw the page into this PNG, by Chromium or Chrome")
    given = parser.parse_args(arguments)
    text = page(computed(given.profile))
    path = store.figures_directory() / NAME
    store.write_text(path, text)
    print(f"{path}: {len(text.encode()) / 1e6:.1f} MB, for any browser, without a network")
    if given.picture:
        try:
            picture(path, given.picture)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{given.picture}: {given.picture.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
