"""Codecs of latents on disk: our own folders, the codec within a model's folder, and diffusers' autoencoders.

A codec's folder has `codec.json` (its configuration and statistics, what it was trained on, and what its
reconstructions measured), `codec.safetensors` (the autoencoder's weights), a card and a manifest.
"""

from __future__ import annotations

from inkwash.codecfolder.folder import codec_place, load_codec, read_codec, save_codec
from inkwash.codecfolder.theirs import from_diffusers, to_diffusers

__all__ = ["codec_place", "from_diffusers", "load_codec", "read_codec", "save_codec", "to_diffusers"]
