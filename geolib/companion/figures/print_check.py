"""What keeps a figure from being printed: clipped or overlapping text, small fonts, foreign colours, hidden data."""

from collections.abc import Iterator
from itertools import combinations

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgb, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from geolib.companion.figures import style

SMALLEST = 6.0  # points, at the printed size; an index or an exponent may be smaller
TOLERANCE = 0.5  # points that boxes of text may share, or reach over an edge

_NO_LINE = ("None", "none", " ", "")
_SAME = 1.5 / 255  # of a colour's channels: rounding to eight bits


def complaints(figure: Figure) -> list[str]:
    """What a reader of the printed figure would complain about, one sentence each; empty where it is fit for print.

    Args:
        figure: laid out last by ``figure.draw_without_rendering()``; a saved picture's resolution moves the boxes.
    """
    drawn = list(_drawn(figure))
    texts = [artist for artist in drawn if isinstance(artist, Text) and artist.get_text().strip()]
    boxes = [Text.get_window_extent(text) for text in texts]  # of an annotation without its arrow
    return [
        *_width(figure),
        *_small(texts),
        *_clipped(figure, texts, boxes),
        *_overlapping(figure, texts, boxes),
        *_foreign(drawn),
        *_legends_over_data(figure, drawn),
    ]


def _drawn(artist: Artist) -> Iterator[Artist]:
    """An artist and what belongs to it, without what is invisible and without ticks beyond the ends of an axis."""
    if not artist.get_visible() or artist.get_alpha() == 0:
        return
    yield artist
    children = artist.get_children()
    if isinstance(artist, Axes) and not artist.axison:
        children = [child for child in children if not isinstance(child, (Axis, Spine)) and child is not artist.patch]
    elif isinstance(artist, Axis):
        low, high = sorted(artist.get_view_interval())
        margin = 1e-9 * (high - low)
        ticks = [*artist.get_major_ticks(), *artist.get_minor_ticks()]
        beyond = [tick for tick in ticks if not low - margin <= tick.get_loc() <= high + margin]
        children = [child for child in children if child not in beyond]
    elif isinstance(artist, Text):
        children = [artist.get_bbox_patch(), artist.arrow_patch if isinstance(artist, Annotation) else None]
    for child in children:
        if child is not None:
            yield from _drawn(child)


def _named(text: Text) -> str:
    return f'"{" ".join(text.get_text().split())}"'


def _width(figure: Figure) -> list[str]:
    width = figure.get_figwidth()
    if any(abs(width - printed) < 1e-6 for printed in (style.COLUMN, style.PAGE)):
        return []
    return [f"the figure is {width:g} in wide, neither a column ({style.COLUMN:g}) nor a page ({style.PAGE:g})"]


def _small(texts: list[Text]) -> list[str]:
    return [
        f"{_named(text)} is set in {text.get_fontsize():.2g} pt, under {SMALLEST:g}"
        for text in texts
        if text.get_fontsize() < SMALLEST - 1e-9
    ]


def _clipped(figure: Figure, texts: list[Text], boxes: list[Bbox]) -> list[str]:
    found = []
    for text, box in zip(texts, boxes, strict=True):
        panel = text.get_clip_box() if text.get_clip_on() else None
        if not _contains(panel or figure.bbox, box, figure.dpi):
            edge = "its panel" if panel else "the figure's edge"
            found.append(f"{_named(text)} is clipped by {edge}")
    return found


def _overlapping(figure: Figure, texts: list[Text], boxes: list[Bbox]) -> list[str]:
    pairs = combinations(zip(texts, boxes, strict=True), 2)
    return [f"{_named(a)} and {_named(b)} overlap" for (a, at), (b, bt) in pairs if _share(at, bt, figure.dpi)]


def _contains(outer: Bbox, inner: Bbox, dpi: float) -> bool:
    slack = TOLERANCE * dpi / 72
    return bool(np.all(inner.min >= outer.min - slack) and np.all(inner.max <= outer.max + slack))


def _share(a: Bbox, b: Bbox, dpi: float) -> bool:
    """Whether two boxes share an area that is more than the tolerance wide and high."""
    return bool(np.all(np.minimum(a.max, b.max) - np.maximum(a.min, b.min) > TOLERANCE * dpi / 72))


# --- colours


def _foreign(drawn: list[Artist]) -> list[str]:
    maps = [mpl.colormaps.get_cmap(cmap)(np.arange(256))[:, :3] for cmap in style.COLOR_MAPS]
    known = np.concatenate([[to_rgb(color) for color in style.PALETTE], *maps])
    found = {}
    for artist in drawn:
        for rgb in _colors(artist):
            grey = np.ptp(rgb) <= 2 * _SAME
            if not grey and np.abs(known - rgb).max(axis=1).min() > _SAME:
                found[type(artist).__name__, to_hex(rgb)] = None  # each once, in order
    return [f"a {kind} has the colour {color}, which is not in the palette" for kind, color in found]


def _colors(artist: Artist) -> NDArray:
    """The colours ``(n, 3)`` in which an artist is drawn."""
    if isinstance(artist, ScalarMappable) and artist.get_array() is not None:
        if np.ndim(artist.get_array()) == 3 and not isinstance(artist, Collection):
            return np.empty((0, 3))  # a photograph has its own
        return artist.get_cmap()(np.linspace(0, 1, 64))[:, :3]
    colors = []
    if isinstance(artist, Text):
        colors = [artist.get_color()]
    elif isinstance(artist, Line2D):
        if artist.get_linestyle() not in _NO_LINE and artist.get_linewidth() > 0:
            colors.append(artist.get_color())
        if artist.get_marker() not in (None, *_NO_LINE):
            colors.append(artist.get_markerfacecolor())
            if artist.get_markeredgewidth() > 0:
                colors.append(artist.get_markeredgecolor())
    elif isinstance(artist, Patch):
        colors.append(artist.get_facecolor())
        if artist.get_linewidth() > 0:
            colors.append(artist.get_edgecolor())
    elif isinstance(artist, Collection):
        colors.extend(artist.get_facecolor())
        if np.max(artist.get_linewidth(), initial=0) > 0:
            colors.extend(artist.get_edgecolor())
    rgba = np.concatenate([np.empty((0, 4)), *(to_rgba_array(color) for color in colors)])
    return np.unique(rgba[rgba[:, 3] > 0, :3], axis=0)


# --- legends


def _legends_over_data(figure: Figure, drawn: list[Artist]) -> list[str]:
    slack = TOLERANCE * figure.dpi / 72
    panels = [artist for artist in drawn if isinstance(artist, Axes)]
    found = []
    for legend in (artist for artist in drawn if isinstance(artist, Legend)):
        box = legend.get_window_extent().padded(-slack)
        inside = ((panel, Bbox.intersection(box, panel.bbox)) for panel in panels)
        if any(part is not None and _data_in(panel, part) for panel, part in inside):
            first = legend.get_texts()[0] if legend.get_texts() else legend.get_title()
            found.append(f"the legend that begins with {_named(first)} lies over data")
    return found


def _data_in(panel: Axes, box: Bbox) -> bool:
    """Whether anything that is drawn in a panel as data reaches into a box, in pixels."""
    for artist in (child for child in panel.get_children() if child.get_visible()):
        if isinstance(artist, Line2D):
            path = artist.get_transform().transform_path(artist.get_path())
            joined = artist.get_linestyle() not in _NO_LINE
            if _any_in(path.vertices, box) or (joined and path.intersects_bbox(box, filled=False)):
                return True
        elif isinstance(artist, Collection):
            offsets = np.ma.filled(artist.get_offsets(), np.nan)
            if np.any(offsets != 0):
                if _any_in(artist.get_offset_transform().transform(offsets), box):
                    return True
            elif any(
                artist.get_transform().transform_path(path).intersects_bbox(box, filled=len(artist.get_facecolor()) > 0)
                for path in artist.get_paths()
            ):
                return True
        elif isinstance(artist, Patch) and not isinstance(artist, Spine) and artist is not panel.patch:
            path = artist.get_transform().transform_path(artist.get_path())
            if path.intersects_bbox(box, filled=artist.get_fill()):
                return True
        elif artist in panel.images and artist.get_window_extent().overlaps(box):
            return True
    return False


def _any_in(points: NDArray, box: Bbox) -> bool:
    return bool(np.any(np.all((points >= box.min) & (points <= box.max), axis=-1)))
