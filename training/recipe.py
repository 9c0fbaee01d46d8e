"""Recipes: from a name or a YAML file and `key.path=value` overrides to checked settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from training.config import Settings, nearest

RECIPES = Path(__file__).resolve().parent / "recipes"
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # YAML 1.1 reads 1e-3 as a word


class RecipeError(ValueError):
    """A recipe that cannot be used; the text says which setting, what came and what was expected."""


def recipe_names() -> list[str]:
    """Every recipe that is shipped, as family/size_data."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Raises:
        RecipeError: neither a shipped recipe nor a YAML file; the nearest name is given.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {name}")
        return path
    if name not in recipe_names():
        raise RecipeError(
            f"unknown recipe {name!r}{nearest(name, recipe_names())}; recipes: {', '.join(recipe_names())}"
        )
    return RECIPES / f"{name}.yaml"


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a recipe with overrides such as "optim.lr=1e-3".

    Raises:
        RecipeError: the recipe is missing, not YAML, or holds an unknown or impossible setting.
    """
    path = find_recipe(name)
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            # A few lines of aliases of aliases stand for more values than fit into memory.
            raise RecipeError(f"{path.name} uses YAML aliases (*name); write the values out")
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name} is not YAML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{path.name} nests too deeply for a recipe") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path.name} holds {type(tree).__name__}, not sections such as model: and data:")
    return check_settings(_numbers(apply_overrides(tree, overrides)), path.name)


def check_settings(tree: Mapping[str, Any], name: str) -> Settings:
    """Settings from a plain tree, with every registry entry's own keys checked too.

    Raises:
        RecipeError: see `load_recipe`.
    """
    try:
        settings = Settings.model_validate(dict(tree))
    except ValidationError as error:
        raise RecipeError(f"{name}: " + "; ".join(_explain(each) for each in error.errors())) from None
    from training.build import check_entries  # imports models: only a recipe that is well formed pays for it

    try:
        check_entries(settings)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{name}: {error}") from None
    return settings


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `tree` with each "key.path=value" set; values are YAML.

    Raises:
        RecipeError: an override has no "=" or goes through something that is no section.
    """
    result = _copy(dict(tree))
    for override in overrides:
        path, sign, text = override.partition("=")
        if not sign or not path:
            raise RecipeError(f"override {override!r} is not key.path=value, such as optim.lr=1e-3")
        *parents, last = path.split(".")
        place = result
        for key in parents:
            if place.get(key) is None:
                place[key] = {}
            if not isinstance(place[key], dict):
                raise RecipeError(f"override {override!r}: {key} is {place[key]!r}, not a section")
            place = place[key]
        try:
            place[last] = yaml.safe_load(text) if text else None
        except yaml.YAMLError:
            place[last] = text
    return result


def to_yaml(settings: Settings) -> str:
    """The resolved settings as YAML that `load_recipe` reads back to equal ones."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list) else value


def _numbers(value: Any) -> Any:
    """Words such as 1e-3 as the floats they mean."""
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def _explain(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"unknown setting {where}{nearest(path[-1], _known(path[:-1]))}"
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})" if where else error["msg"]


def _known(path: Sequence[str]) -> Iterator[str]:
    """Names of the settings in the section at `path`."""
    section: type[BaseModel] = Settings
    for part in path:
        field = section.model_fields.get(part)
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        found = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
        if not found:
            return
        section = found[0]
    yield from section.model_fields
