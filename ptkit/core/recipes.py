"""Recipes: ready settings by name, TOML files that anyone can read and copy."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ptkit.core.config import Layer, read_toml
from ptkit.core.errors import UsageError
from ptkit.core.wording import nearest


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(
        file.name.removesuffix(".toml")
        for file in _folder().iterdir()
        if file.name.endswith(".toml")
    )


def recipe_text(name: str) -> str:
    """Return a recipe as it stands in its file.

    Raises:
        UsageError: no recipe of this name.
    """
    if name not in recipe_names():
        raise UsageError(
            f"no recipe is called {name}{nearest(name, recipe_names())}; `ptkit list recipes` has"
            " them"
        )
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8")


def read_recipe(name: str) -> Layer:
    """Return the settings of a recipe, or of a file of one's own (a name that ends in .toml).

    Raises:
        UsageError: no recipe of this name, or no such file.
    """
    if name.endswith(".toml"):
        return read_toml(Path(name))
    recipe_text(name)
    with resources.as_file(_folder() / f"{name}.toml") as file:
        return read_toml(file)


def summary(name: str) -> str:
    """Return the first line of a recipe's comment."""
    return recipe_text(name).split("\n", 1)[0].removeprefix("#").strip()


def _folder() -> Traversable:
    return resources.files("ptkit") / "recipes"
