"""Train a JEPA from a recipe.

From a checkout: `accelerate launch training/train.py RECIPE`; elsewhere: `accelerate launch -m training.train RECIPE`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if not __package__:  # run by its path: Python has put training/ itself first on sys.path, where the root belongs
    sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place).resolve() != HERE)]

DESCRIPTION = "Train a JEPA from a recipe. The run goes on from its newest whole checkpoint when there is one."


def check_package() -> None:
    """Refuse to run when `import training` gives another package than the one this file belongs to.

    Raises:
        ImportError: another folder named `training` hides this one; the text names it and says what to do.
    """
    places = [Path(place).resolve() for place in importlib.import_module("training").__path__]
    if HERE not in places:
        raise ImportError(
            f"`import training` finds {places[0]}, not the package of jepa_hub in {HERE}. A folder named training/ in "
            f"the working directory or on PYTHONPATH hides it: rename that folder, or start from another directory."
        )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="train.py", description=DESCRIPTION)
    parser.add_argument("recipe", help="a name such as vjepa/tiny_sliding_scenes, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    parser.add_argument(
        "--resume", default="auto", metavar="auto|never|FOLDER", help="newest checkpoint of run.out, none, or this one"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, take two steps, write nothing")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the finished model")
    parser.add_argument("--print-settings", action="store_true", help="print the resolved settings and stop")
    return parser.parse_args(arguments)


def expected_errors() -> tuple[type[BaseException], ...]:
    """Errors whose text is all that a user needs."""
    from training.averaging.base import WorkerLostError
    from training.checkpoints import CheckpointError
    from training.data.batches import BadDataError
    from training.recipe import RecipeError
    from training.watch import CollapsedError, DivergedError

    known = (CheckpointError, BadDataError, CollapsedError, DivergedError, RecipeError, WorkerLostError)
    return *known, ValueError, FileNotFoundError


def run(chosen: argparse.Namespace) -> Any:
    """Do what the command line asks; returns the folder of the finished model, or None."""
    from training.recipe import load_recipe, to_yaml

    settings = load_recipe(chosen.recipe, chosen.overrides)
    if chosen.print_settings:
        print(to_yaml(settings), end="")
        return None
    if chosen.dry_run:
        from training.dry_run import dry_run

        dry_run(settings)
        return None
    from training.loop import Run

    training = Run(settings, resume=chosen.resume)
    folder = training.train()
    if training.accelerator.is_main_process:
        print(f"finished after step {training.step}: {folder}")
        if chosen.push_to_hub:
            from training.publish import push

            push(folder, chosen.push_to_hub)
            print(f"uploaded to {chosen.push_to_hub}")
    training.close()
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a failure that the user can mend is told in one paragraph and exits with status 1."""
    chosen = parse(arguments)
    try:
        check_package()
        level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("training").setLevel(level)
        expected = expected_errors()
    except ImportError as error:
        missing = getattr(error, "name", None)
        hint = (
            f"\nTraining needs the extra train: pip install 'jepa-hub[train]' (missing: {missing})" if missing else ""
        )
        raise SystemExit(f"{error}{hint}") from None
    try:
        run(chosen)
    except expected as error:
        if os.environ.get("JEPA_HUB_TRACEBACK") == "1":
            raise
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
