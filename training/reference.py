"""Write docs/models.md and docs/recipes.md, the tables of every weight and recipe, from the registries.

python -m training.reference            # from the root of a checkout; a test fails while the pages are not current
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from jepa_hub.catalog import CHECKPOINTS
from jepa_hub.catalog_row import COMMERCIAL_LICENCES, Checkpoint
from jepa_hub.describe import count_text
from training.recipe import find_recipe, recipe_names

MODELS_HEAD = """# Models

Every weight the package knows, by the name that `from_pretrained` takes; `jepa-hub info NAME` says more of each. Made
from the catalog by `python -m training.reference`, never edited. Parameters are those of one encoder. Scores are the
authors' own, read in their README; where none was read there, none is quoted.
"""
RECIPES_HEAD = """# Recipes

Every recipe by the name that `training/train.py` takes, from the headers of their files by `python -m
training.reference`, never edited. Costs are computed (`python -m training.plan RECIPE`), not measured. *Here* are small
recipes that were run on a CPU; published configurations have not been run here unless their header says so.
"""
OURS = re.compile(r"/(tiny|small|digits)")


def models_page() -> str:
    """The page of all weights."""
    rows = list(CHECKPOINTS.values())
    shipped = [row for row in rows if row.source.startswith("package:")]
    models = [row for row in rows if row.kind == "model" and row not in shipped and row.unsupported is None]
    parts = [MODELS_HEAD, "## Shipped with the package\n"]
    parts.append(_table(("name", "encoder", "input", "networks", "what it is"), map(_shipped, shipped)))
    for family in dict.fromkeys(row.family for row in models):
        parts.append(f"## {family}\n")
        chosen = [row for row in models if row.family == family]
        parts.append(
            _table(("name", "source", "encoder", "input", "networks", "licence", "reported"), map(_model, chosen))
        )
    parts.append("## Probes\n")
    probes = [row for row in rows if row.kind == "probe"]
    parts.append(_table(("name", "reads", "data set", "reported"), map(_probe, probes)))
    parts.append("## Known, and not loadable\n")
    parts.append(_table(("name", "why"), ((f"`{row.name}`", _cell(row.unsupported or "")) for row in rows
                                          if row.unsupported and row.kind == "model")))  # fmt: skip
    return "\n".join(parts)


def recipes_page() -> str:
    """The page of all recipes."""
    parts = [RECIPES_HEAD]
    names = recipe_names()
    for family in dict.fromkeys(name.split("/")[0] for name in names):
        parts.append(f"## {family}\n")
        chosen = [name for name in names if name.startswith(f"{family}/")]
        chosen.sort(key=lambda name: (OURS.search(name) is None, name))
        parts.append(_table(("recipe", "what", "method", "cost", "expect"), map(_recipe, chosen)))
    return "\n".join(parts)


def header(name: str) -> dict[str, str]:
    """The comment that opens a recipe, by its keywords ("" is the first lines), each as one line."""
    found: dict[str, str] = {}
    key = ""
    for line in find_recipe(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        opened = re.match(r"# (\w+): +(.*)", line)
        key, text = (opened[1], opened[2]) if opened else (key, line.lstrip("# "))
        between = "; " if key == "Cost" and key in found else " "
        found[key] = f"{found.get(key, '')}{between}{text}".strip()
    return found


def _shipped(row: Checkpoint) -> tuple[str, ...]:
    return f"`{row.name}`", count_text(row.parameters), _input(row), ", ".join(row.networks), _cell(row.note)


def _model(row: Checkpoint) -> tuple[str, ...]:
    scores = "; ".join(f"{score.dataset} {score.value:g}" for score in row.scores) or "none quoted"
    where = f"[official file]({row.source})" if "://" in row.source else f"`{row.source}`"
    commercial = "" if row.licence in COMMERCIAL_LICENCES else ", not commercial"
    networks = "all three" if len(row.networks) == 3 else ", ".join(row.networks)
    size = count_text(row.parameters)
    return f"`{row.name}`", where, size, _input(row), networks, f"{row.licence}{commercial}", scores


def _probe(row: Checkpoint) -> tuple[str, ...]:
    score = row.scores[0] if row.scores else None
    reported = "none quoted" if score is None else f"{score.value:g} {score.metric}; {score.protocol}"
    if row.unsupported:
        reported += "; not loadable: " + row.unsupported
    dataset = score.dataset if score else row.name.removesuffix("-hub").rsplit("-", 1)[-1]
    return f"`{row.name}`", f"`{row.backbone}`", dataset, _cell(reported)


def _recipe(name: str) -> tuple[str, ...]:
    words = header(name)
    settings = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))
    link = f"[`{name}`](../training/recipes/{name}.yaml)"
    cost = words.get("Cost", "").replace(" (computed by python -m training.plan, not measured)", "")
    return link, _cell(words[""]), settings["method"]["name"], _cell(cost), _cell(words.get("Expect", ""))


def _input(row: Checkpoint) -> str:
    pixels = row.preprocessing
    return f"{pixels.num_frames} x {pixels.image_size}" if pixels.num_frames else f"{pixels.image_size}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PAGES = {"models.md": models_page, "recipes.md": recipes_page}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="training.reference", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pages")
    out = parser.parse_args(arguments).out
    for name, page in PAGES.items():
        (out / name).write_text(page(), encoding="utf-8")
        print(f"wrote {out / name}")


if __name__ == "__main__":
    main()
