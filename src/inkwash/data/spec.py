"""What to load and how: the `[data]` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Split = Literal["train", "test"]
Resize = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class DataSpec:
    """A source of data and how its pictures are brought to one shape.

    source: a built-in name (`inkwash.data.NAMES`), a folder, a .zip or .tar(.gz), an .npy or .npz.
    size: pixels, one number for squares or (height, width); None lets `inkwash.data.load` choose, and say so.
    resize: "crop" fills the frame and cuts what is left over, evenly on both sides; "pad" fits the whole picture in
    and fills with the background; "stretch" changes its proportions.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA) for pictures, whatever the array has for arrays; None: as the source has.
    background: any CSS colour; transparent pictures are laid on it, padding is filled with it.
    flip: whether training sees each picture mirrored half of the time. None: yes, except for digits, generated sets,
    arrays of points and pictures with numbers, where a mirror changes the meaning, or may.
    val_fraction: the share of pictures held out of training, in [0, 1); see `inkwash.data.split`.
    limit: take at most this many pictures, evenly at random (the same ones every time).
    max_pixels: a picture with more pixels than this is refused before it is decoded.
    vector: columns of metadata.jsonl that hold a number, or a list of numbers, for each picture; of an .npz, which of
    its `vector_names` (none: all of them).
    pairs: a folder or an archive with a partner of each picture, under the same name: for translation.

    ValueError where a number is out of its range.
    """

    source: str
    size: int | tuple[int, int] | None = None
    resize: Resize = "crop"
    channels: int | None = None
    background: str = "white"
    flip: bool | None = None
    val_fraction: float = 0.0
    split: Split = "train"
    limit: int | None = None
    max_pixels: int = 100_000_000
    vector: tuple[str, ...] = ()
    pairs: str | None = None

    # The same rule as `inkwash.types.Component`, which is not imported: this room needs no torch.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError("source is empty. Give a folder, an archive, or a name such as 'fashion-mnist'.")
        if self.size is not None and not all(1 <= s <= 4096 for s in self.frame):
            raise ValueError(f"size = {self.size} must be 1 to 4096 pixels a side. Try size = 64.")
        if self.resize not in ("crop", "pad", "stretch"):
            raise ValueError(f"resize = {self.resize!r} is not one of 'crop', 'pad', 'stretch'.")
        if self.split not in ("train", "test"):
            raise ValueError(f"split = {self.split!r} is not one of 'train', 'test'.")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels = {self.channels} must be at least 1: 1 is grey, 3 is RGB.")
        if not 0.0 <= self.val_fraction < 1.0:
            raise ValueError(f"val_fraction = {self.val_fraction} must be in [0, 1). Try 0.05.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit = {self.limit} must be at least 1. Leave it out to take everything.")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels = {self.max_pixels} must be at least 1.")
        if len(set(self.vector)) < len(self.vector) or not all(name.strip() for name in self.vector):
            raise ValueError(f"vector = {list(self.vector)} must name different columns.")
        if self.pairs is not None and not self.pairs.strip():
            raise ValueError("pairs is empty. Give a folder or an archive with the partners, or leave it out.")

    @property
    def frame(self) -> tuple[int, int]:
        """size as (height, width); (0, 0) where the loader is to choose."""
        if self.size is None:
            return (0, 0)
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])
