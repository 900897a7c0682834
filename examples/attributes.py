"""Numbers measured in pictures, to ask a model for: how far each thing leans, how much of it there is, how tall it is.

    python examples/attributes.py fashion-mnist measured
    inkwash train measured.npz --val-fraction 0.05 --no-flip
    inkwash sample runs/measured --vector slant=30 --vector ink=0.2
    inkwash eval runs/measured --split val --measures fd,kid,vector

Writes measured.npz, the train split with `vectors` and `vector_names`, and measured-test.npz, in the form that inkwash
reads. Any set of pictures will do whose background is black; a picture without ink has no numbers (NaN).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inkwash.data import DataSpec, load

NAMES = ("slant", "ink", "tall")
"""slant: degrees from upright, to the right above 0; ink: mean brightness, 0 to 1; tall: height over width."""

BLOCK = 4096


def attributes(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The three numbers [n, 3] of pictures uint8 [n, H, W, C], by the moments of their brightness w at (x, y).

    With the means and the second moments about them, m_xx = <(x - <x>)²> and so on, y downwards: the line of the
    centres of the rows is x = (m_xy/m_yy)·y, so slant = atan(-m_xy/m_yy); tall = sqrt(m_yy/m_xx), the ratio of the
    deviations. An ellipse of half axes a, b, of which a is turned by t from the right towards the top, has
    m_xx = (a² cos²t + b² sin²t)/4, m_yy = (a² sin²t + b² cos²t)/4 and m_xy = -(a² - b²) sin t cos t/4.
    """
    out = np.empty((len(pictures), len(NAMES)), np.float32)
    high, wide = pictures.shape[1:3]
    y, x = np.arange(high) - (high - 1) / 2, np.arange(wide) - (wide - 1) / 2
    for start in range(0, len(pictures), BLOCK):
        w = pictures[start : start + BLOCK].mean(3) / 255
        ink = w.sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):  # nothing to see: NaN, a number that is not known
            down, across = w.sum(2) / ink[:, None], w.sum(1) / ink[:, None]
            mean_y, mean_x = down @ y, across @ x
            m_yy, m_xx = down @ y**2 - mean_y**2, across @ x**2 - mean_x**2
            m_xy = np.einsum("nhw,h,w->n", w, y, x, optimize=True) / ink - mean_x * mean_y
            slant = np.degrees(np.arctan(-m_xy / m_yy))
            found = np.stack([slant, ink / (high * wide), np.sqrt(m_yy / m_xx)], 1)
        out[start : start + BLOCK] = np.where(np.isfinite(found), found, np.nan)
    return out


def measured(source: str, split: str, file: Path) -> None:
    """Write a split of a data set with its numbers."""
    data = load(DataSpec(source, split="train" if split == "train" else "test"))
    arrays = {"images": np.asarray(data.images), "vectors": attributes(data.images), "vector_names": np.array(NAMES)}
    if data.labels is not None:
        arrays |= {"labels": data.labels, "classes": np.array(data.classes)}
    np.savez(file, **arrays)
    middle = np.nanquantile(arrays["vectors"], [0.05, 0.5, 0.95], axis=0).T
    told = ", ".join(f"{n} {m:.3g} ({a:.3g} to {b:.3g})" for n, (a, m, b) in zip(NAMES, middle, strict=True))
    print(f"{file}: {len(data):,} pictures; median and the middle nine tenths: {told}")


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a data set, as for inkwash train")
    parser.add_argument("out", type=Path, help="the files' name, without .npz")
    args = parser.parse_args()
    for split, more in (("train", ""), ("test", "-test")):
        measured(args.source, split, args.out.with_name(f"{args.out.name}{more}.npz"))


if __name__ == "__main__":
    main()
