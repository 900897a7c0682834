"""Training: from a recipe to a run's folder. `train` is the whole of it; it yields progress."""

from inkwash.training.loop import Progress, TrainingError, train
from inkwash.training.plan import Plan, plan
from inkwash.training.run import resume_recipe

__all__ = ["Plan", "Progress", "TrainingError", "plan", "resume_recipe", "train"]
