"""Animations as GIF files, the same bytes for the same frames."""

from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

_FRAMES_PER_SECOND = 20
_COLORS = 64  # one palette for all frames, so that a file stays small and nothing flickers


def write(path: Path, frames: Iterable[Figure], finish: Callable[[Figure], None]) -> None:
    """Write a GIF that goes through the frames and back, for ever.

    Args:
        path: of the file.
        frames: one figure after the other, all of one size; it may be the same one with other contents. Every colour
            should be in the first one. They are closed afterwards.
        finish: called with each figure when it comes for the first time, before it is laid out.
    """
    pictures: list[Image.Image] = []
    seen: list[Figure] = []
    for figure in frames:
        if figure not in seen:
            seen.append(figure)
            finish(figure)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # what moves must not move the rest
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    for figure in seen:
        plt.close(figure)
    first, *others = [*pictures, *reversed(pictures[1:-1])]
    first = first.quantize(_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    others = [picture.quantize(palette=first, dither=Image.Dither.NONE) for picture in others]
    duration = 1000 // _FRAMES_PER_SECOND
    first.save(path, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
