"""Editing with any model: inpainting, variations, inversion, and restoring what was measured.

Wrappers of a denoiser (`Inpainted`, `Posterior`), a wrapper of a sampler (`Resampled`), points to start from (`noised`,
`invert`, `slerp`), and the four as jobs that a pipeline takes (`Vary`, `Fill`, `Restore`, `Decode`).
"""

from inkwash.edit.jobs import Decode, Edit, Fill, Restore, Vary, refuse_pictures
from inkwash.edit.latents import check_deterministic, clean_time, invert, noised, slerp
from inkwash.edit.posterior import Blur, Downsample, Posterior
from inkwash.edit.replacement import Inpainted, Resampled, repaint

__all__ = [
    "Blur",
    "Decode",
    "Downsample",
    "Edit",
    "Fill",
    "Inpainted",
    "Posterior",
    "Resampled",
    "Restore",
    "Vary",
    "check_deterministic",
    "clean_time",
    "invert",
    "noised",
    "refuse_pictures",
    "repaint",
    "slerp",
]
