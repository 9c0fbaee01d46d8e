"""Train a JEPA from a recipe.

From a checkout: `accelerate launch training/train.py RECIPE`; elsewhere: `accelerate launch -m training.train RECIPE`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
if not __package__:  # run by its path: Python has put training/ itself first on sys.path, where the root belongs
    sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place).resolve() != HERE)]


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with status 1, because this version has no recipes yet."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train a JEPA from a recipe.")
    parser.add_argument("recipe", help="a name such as vjepa/tiny_worlds, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    chosen = parser.parse_args(arguments)
    try:
        check_package()
    except ImportError as error:
        parser.exit(1, f"{error}\n")
    parser.exit(1, f"Cannot train {chosen.recipe!r}: training recipes are not part of this version of jepa_hub yet.\n")


if __name__ == "__main__":
    main()
