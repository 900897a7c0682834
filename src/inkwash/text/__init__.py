"""Text encoders: what a caption or a prompt is turned into before a network attends to it. Each is one component."""

from __future__ import annotations

from typing import Annotated

from inkwash.kinds import OneOf
from inkwash.text.encoder import Encoder, Tokens
from inkwash.text.encoders import T5, Clip, MiniLm

AnyEncoder = Annotated[MiniLm | Clip | T5, OneOf()]
"""A text encoder as a recipe or a model's config names it."""

__all__ = ["T5", "AnyEncoder", "Clip", "Encoder", "MiniLm", "Tokens"]
