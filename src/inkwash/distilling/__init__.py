"""From a trained model to one that answers in a few steps: its teacher, pairs of it, and the recipe of its training."""
