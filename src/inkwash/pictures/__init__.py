"""Pictures for people to look at: sheets of images, charts, scatters, and PNG and GIF files that appear whole.

Drawn with Pillow alone, and Pillow is only imported when something is drawn.
"""

from inkwash.pictures.bars import bars
from inkwash.pictures.chart import line_plot, scatter, ticks
from inkwash.pictures.files import read_settings, save_gif, save_png
from inkwash.pictures.matrix import matrix
from inkwash.pictures.sheet import grid, strip
from inkwash.pictures.tradeoff import Mark, front

__all__ = [
    "Mark",
    "bars",
    "front",
    "grid",
    "line_plot",
    "matrix",
    "read_settings",
    "save_gif",
    "save_png",
    "scatter",
    "strip",
    "ticks",
]
