"""Training: from a recipe to a run's folder. `train` is the whole of it; it yields progress."""

from inkwash.training.loop import train
from inkwash.training.plan import Plan, plan
from inkwash.training.posthoc import Rebuilt, rebuild
from inkwash.training.progress import Progress, TrainingError
from inkwash.training.run import resume_recipe

__all__ = ["Plan", "Progress", "Rebuilt", "TrainingError", "plan", "rebuild", "resume_recipe", "train"]
