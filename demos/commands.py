"""The command `jepa-hub demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    host: Annotated[str, typer.Option(help="Where to listen; anything but this machine locks the list of models.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.")] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
    share: Annotated[bool, typer.Option("--share", help="Also a public address, through gradio's servers.")] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Only the listed models: no other Hub id, no folder of this machine.")
    ] = False,
    space: Annotated[
        Path | None, typer.Option(help="Do not start: write a folder that is a Hugging Face Space of this demo.")
    ] = None,
) -> None:
    """Open the demo in a browser: what the models see, what they expect, and what surprises them."""
    if space is not None:
        from demos.space import write_space

        typer.echo(f"wrote {write_space(space)}: push it to a Space with the SDK gradio")
        return
    try:
        import gradio  # noqa: F401 - here, so that its absence is said in our words
    except ImportError as error:
        raise ImportError("the demo needs gradio: pip install 'jepa-hub[demo]'") from error
    from demos.app import Settings, serve

    settings = Settings(host, port, share, open_browser, locked)
    typer.echo("starting the demo ...")
    app, address = serve(settings, wait=False)
    typer.echo(f"jepa_hub is at {address} (Ctrl-C stops it)")
    app.block_thread()
