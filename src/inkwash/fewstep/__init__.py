"""Few steps: losses for networks of two times, which know the mean velocity between them.

`SoFlow` and `Consistency` learn a jump from a small step and the rest of the jump, `Shortcut` from its halves,
`MeanFlow` from a derivative. Each is an objective like any other; `taught` gives it a teacher.
"""

from inkwash.fewstep.consistency import Consistency, Shortcut, SoFlow
from inkwash.fewstep.flowmap import FlowMap, Taught, Velocity, velocity_of
from inkwash.fewstep.meanflow import MeanFlow

__all__ = ["Consistency", "FlowMap", "MeanFlow", "Shortcut", "SoFlow", "Taught", "Velocity", "velocity_of"]
