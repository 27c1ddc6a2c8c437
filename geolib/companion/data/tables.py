"""Images from a CSV table: one row per image, its label first and then its pixels."""

import gzip
import zlib

import numpy as np


def read_table(contents: bytes, *, compressed: bool, n_pixels: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, n_pixels)`` and labels ``(n,)``, both uint8.

    Args:
        contents: the file's: a header line, then one line per image.
        compressed: whether they are gzipped.
        n_pixels: pixels per image, each an integer from 0 to 255.
        n_classes: labels run from 0 to one less.

    Raises:
        ValueError: for anything else; it names the first bad line.
    """
    try:
        lines = (gzip.decompress(contents) if compressed else contents).decode("ascii").splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not an intact gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not a text file ({error})") from error
    if len(lines) < 2:
        raise ValueError(f"{len(lines)} lines, expected a header and one line per image")
    for number, line in enumerate(lines, 1):
        columns = line.count(",") + 1
        if columns != 1 + n_pixels:
            raise ValueError(f"line {number} has {columns} columns, expected a label and {n_pixels} pixels")
    try:
        values = np.loadtxt(lines[1:], dtype=np.int64, delimiter=",", ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"not a table of integers below its header ({error})") from error
    labels, images = values[:, 0], values[:, 1:]
    for what, found, largest in (("label", labels[:, None], n_classes - 1), ("pixel", images, 255)):
        bad = (found < 0) | (found > largest)
        if bad.any():
            row = int(bad.any(1).argmax())
            value = found[row][bad[row]][0]
            raise ValueError(f"line {row + 2}: {what} {value}, allowed are 0 to {largest}")
    return images.astype(np.uint8), labels.astype(np.uint8)
