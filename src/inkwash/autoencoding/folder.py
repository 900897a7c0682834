"""The folder of an autoencoder's training: codec.toml, metrics.jsonl, samples/, checkpoints/step-N, and codec/."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path as File

from inkwash.autoencoding.recipe import FILE, CodecRecipe, read_codec_recipe, write_codec_recipe
from inkwash.training.run import Run

CODEC = "codec"
"""The finished codec's folder, within the run's: where `load_codec` looks for it."""


@dataclass(frozen=True)
class CodecRun:
    """The folder of one run; `files` is what it has in common with a diffusion run's."""

    folder: File

    @property
    def files(self) -> Run:
        """Its metrics, checkpoints and lock."""
        return Run(self.folder)

    @classmethod
    def new(cls, out: str | File | None, recipe: CodecRecipe) -> CodecRun:
        """A folder for a new run. Raises ValueError where another run is already in it."""
        if out is None:
            name = f"{File(recipe.data.source.rstrip('/')).name.split('.')[0] or 'run'}-codec"
            taken = (File("runs") / (name if n == 1 else f"{name}-{n}") for n in range(1, sys.maxsize))
            return cls(next(f for f in taken if not f.exists()))
        folder = File(out)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file. Choose a folder for the run with --out.")
        if any((folder / "checkpoints").glob("step-*")) or any((folder / n).exists() for n in ("model", CODEC)):
            raise ValueError(
                f"{folder} holds a run already. Continue it with `inkwash train-codec --resume {folder}`, if it is a "
                "codec's, or choose another folder with --out."
            )
        return cls(folder)

    @classmethod
    def at(cls, folder: str | File) -> CodecRun:
        """The folder of the run that is, or contains, `folder`: a run or one of its checkpoints. Else ValueError."""
        for candidate in (File(folder), File(folder).resolve().parent.parent):
            if (candidate / FILE).is_file() and (candidate / "checkpoints").is_dir():
                return cls(candidate)
        why = "there is no such folder" if not File(folder).exists() else f"it has no {FILE} and checkpoints/"
        runs = sorted(str(p.parent) for p in File("runs").glob(f"*/{FILE}"))
        known = f"Those found here: {', '.join(runs[:5])}." if runs else ""
        raise ValueError(f"No training of a codec to resume in {folder}: {why}. {known}".rstrip())

    def recipe(self) -> CodecRecipe:
        """What it was begun with."""
        return read_codec_recipe((self.folder / FILE).read_text(encoding="utf-8"))

    def begin(self, recipe: CodecRecipe, step: int, *, resumed: bool) -> list[str]:
        """Write the recipe and go back to `step`; what a user should know."""
        notes = self.files.rewind(step if resumed else -1)
        staged = self.folder / f".{FILE}.new"
        staged.write_text(write_codec_recipe(recipe), encoding="utf-8")
        staged.replace(self.folder / FILE)
        return notes
