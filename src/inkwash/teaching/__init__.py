"""Learning from a trained model: its velocities, on the linear path, and pairs of noise and what it makes of it."""

from inkwash.teaching.pairing import drawn_in, pairs
from inkwash.teaching.teacher import Bound, find_teacher

__all__ = ["Bound", "drawn_in", "find_teacher", "pairs"]
