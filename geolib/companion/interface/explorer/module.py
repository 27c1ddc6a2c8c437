"""The explorer's ES module and style as texts: files of JavaScript that are joined, with no build step."""

from pathlib import Path

_HERE = Path(__file__).parent
_FILES = ("numerics", "parts", "variances", "explorer", "steps", "pairs", "views")
"""each may use those before it"""
_IMPORT = "import {"


def source() -> str:
    """The module: its files one after the other, whose imports of each other are satisfied by that."""
    texts = [(_HERE / f"{name}.js").read_text(encoding="utf-8") for name in _FILES]
    return "\n".join(line for text in texts for line in text.splitlines() if not line.startswith(_IMPORT)) + "\n"


def style() -> str:
    """The style sheet. All its rules are about elements of class ``gx``."""
    return (_HERE / "explorer.css").read_text(encoding="utf-8")
