"""Commands that training adds to `jepa-hub`; each passes its arguments on to the module that also runs alone."""

from __future__ import annotations

import typer

# What follows the command is read by the module itself, --help included, so that there is one parser for both ways in.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

train_app = typer.Typer(add_completion=False)
probe_app = typer.Typer(add_completion=False)


@train_app.command(context_settings=_PASS_ON)
def train(context: typer.Context) -> None:
    """Train a model from a recipe (one process; `accelerate launch training/train.py` for more)."""
    from training.train import main

    main(context.args)


@probe_app.command(context_settings=_PASS_ON)
def probe(context: typer.Context) -> None:
    """Read labels out of frozen features: linear, k-NN, attentive, low-shot."""
    from training.probe import main

    main(context.args)
