"""The command `jepa-hub zero-shot`: files and words in, the words that fit out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jepa_hub.labelled import Labelled, label_files, report

DEFAULT = "llip-tiny-scenes"


def zero_shot_command(
    inputs: Annotated[list[str], typer.Argument(help="Pictures, or folders of them (searched recursively).")],
    labels: Annotated[
        list[str],
        typer.Option("--labels", "-l", help='Names of classes, as in "red, blue", or a text file with one a line.'),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A Llip model: catalog name, Hub id, folder or official file.")
    ] = DEFAULT,
    templates: Annotated[
        list[str] | None, typer.Option("--template", help='A sentence with {} for the name, as in "a photo of a {}".')
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=1e-6, help="Of the mixing, instead of the model's; never chosen on a test set.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Names of each picture.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with an error when a file could not be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Name what is in pictures with words of your own; the model was never trained on these classes."""
    from jepa_hub import zero_shot
    from jepa_hub.models.base import JEPAModel
    from jepa_hub.models.llip import LlipModel
    from jepa_hub.processing import JEPAProcessor

    names = names_of(labels)
    loaded = JEPAModel.from_pretrained(model, revision=revision)
    if not isinstance(loaded, LlipModel):
        raise ValueError(
            f"{model} is a {type(loaded).__name__}, which reads no texts: choose a model of the family llip"
        )
    loaded = loaded.to(device).eval()
    classes = zero_shot.encode_classes(loaded, names, templates or zero_shot.PLAIN)
    processor = JEPAProcessor.from_pretrained(model, revision=revision)
    found = named(loaded, processor, inputs, classes, batch_size, device, temperature=temperature, top=top)
    report(found, as_json=as_json, strict=strict)


def names_of(given: Sequence[str]) -> list[str]:
    """Names from what --labels got: words with commas between, or text files.

    Raises:
        ValueError: there are fewer than two names.
    """
    found: list[str] = []
    for each in given:
        path = Path(each)
        if path.suffix == ".txt":
            if not path.is_file():
                raise ValueError(f"there is no file {each} with the names of classes")
            found += path.read_text(encoding="utf-8").splitlines()
        else:
            found += each.split(",")
    names = list(dict.fromkeys(name.strip() for name in found if name.strip()))
    if len(names) < 2:
        raise ValueError(f'--labels needs at least two names, as in --labels "red, blue"; got {names}')
    return names


def named(
    model: Any, processor: Any, inputs: Sequence[str], classes: Any, batch_size: int, device: str, **settings: Any
) -> Iterator[Labelled]:
    """The names of each picture; what is no picture, or cannot be read, is said in its place."""
    from jepa_hub import zero_shot
    from jepa_hub.embedding.files import IMAGE_SUFFIXES, find_files

    paths = [str(path) for path in find_files(inputs)]
    pictures = [path for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    for path in sorted(set(paths) - set(pictures)):
        yield Labelled(path, error="a film; this model takes pictures")
    yield from label_files(
        pictures,
        batch_size,
        lambda some: zero_shot.classify(model, processor(some, device=device), classes, **settings),
    )
