"""Recipes: TOML files that describe whole runs, the built-in ones beside this file."""

from inkwash.recipes.read import builtin, builtin_names, read_recipe, write_recipe
from inkwash.recipes.recipe import LENGTHS, Evaluation, InLatents, Recipe, RecipeError, Teacher, Train

__all__ = [
    "LENGTHS",
    "Evaluation",
    "InLatents",
    "Recipe",
    "RecipeError",
    "Teacher",
    "Train",
    "builtin",
    "builtin_names",
    "read_recipe",
    "write_recipe",
]
