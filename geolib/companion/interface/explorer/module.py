"""The explorer's ES module and style as texts: two files of JavaScript that are joined, with no build step."""

from pathlib import Path

_HERE = Path(__file__).parent
_IMPORT = "import {"


def source() -> str:
    """The module: the numerics, and behind them the page, whose one import they satisfy."""
    numerics, page = ((_HERE / name).read_text(encoding="utf-8") for name in ("numerics.js", "explorer.js"))
    own = [line for line in page.splitlines() if not line.startswith(_IMPORT)]
    return "\n".join([numerics, *own, ""])


def style() -> str:
    """The style sheet. All its rules are about elements of class ``gx``."""
    return (_HERE / "explorer.css").read_text(encoding="utf-8")
