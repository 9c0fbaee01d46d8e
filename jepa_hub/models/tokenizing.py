"""Texts to token numbers: the tokenizer of a model, of the Hub, or one that ships with this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_hub import hub
from jepa_hub.notices import say_once

PACKAGE = "package:"
FILE = "tokenizer.json"
FOLDER = Path(__file__).resolve().parent.parent / "tokenizers"
# What the tokenizers of this package call their special tokens; a saved one carries them in its own file.
SPECIAL = {"unk_token": "<unknown>", "pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>"}


def load(config: Any) -> Any:
    """The tokenizer beside a model's weights, else the one that `config.tokenizer` names.

    Args:
        config: a model's, with `name_or_path` (where it came from) and `tokenizer`.

    Raises:
        ValueError: neither exists.
        OSError: the one on the Hub is not in the cache and cannot be downloaded.
    """
    own = _own_folder(config)
    if own is not None:
        return _read(own)
    if config.tokenizer is None:
        raise ValueError("this model came without a tokenizer: pass token numbers [T, L], or set config.tokenizer")
    if config.tokenizer.startswith(PACKAGE):
        from transformers import PreTrainedTokenizerFast

        path = FOLDER / f"{config.tokenizer.removeprefix(PACKAGE)}.json"
        if not path.is_file():
            known = ", ".join(sorted(each.stem for each in FOLDER.glob("*.json")))
            raise ValueError(f"there is no tokenizer {config.tokenizer}; this package has {known}")
        return PreTrainedTokenizerFast(tokenizer_file=str(path), **SPECIAL)
    return _read(config.tokenizer)


def is_local(config: Any) -> bool:
    """Whether `load` needs no connection."""
    named = config.tokenizer
    at_hand = named is not None and (named.startswith(PACKAGE) or Path(named).is_dir())
    return at_hand or _own_folder(config, cached=True) is not None


def _own_folder(config: Any, *, cached: bool = False) -> Path | None:
    """The folder of the model's own tokenizer, if it has one."""
    name = getattr(config, "name_or_path", "") or ""
    if not name:
        return None
    try:
        location = hub.locate(name)
        if location.kind != "repository":
            return None
        found = hub.fetch(location, FILE, hub.Access(local_files_only=cached))
        if found is not None:
            hub.fetch(location, "tokenizer_config.json", hub.Access(local_files_only=cached))
    except (OSError, ValueError):  # a folder that is gone, or a repository out of reach: the configured one is tried
        return None
    return None if found is None else found.parent


def _read(name: Any) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (Path(name) / FILE).is_file() and (Path(name) / "config.json").is_file():  # a model of ours
        return PreTrainedTokenizerFast.from_pretrained(name)
    return AutoTokenizer.from_pretrained(name)


def tokenize(tokenizer: Any, texts: str | Sequence[str], length: int, end_token_id: int) -> Tensor:
    """Token numbers int64 [T, L], L the longest of these texts and at most `length`.

    Raises:
        ValueError: there is no text, or an empty one, or the tokenizer is not the model's (no end token).
    """
    several = [texts] if isinstance(texts, str) else [str(each) for each in texts]
    empty = [number for number, text in enumerate(several) if not text.strip()]
    if not several or empty:
        raise ValueError(f"texts {empty} are empty" if several else "there is no text")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    found = tokenizer(several, padding="longest", truncation=True, max_length=length, return_tensors="pt")
    ids = torch.as_tensor(found["input_ids"])
    without = (~(ids == end_token_id).any(dim=1)).nonzero().flatten().tolist()
    if without:
        raise ValueError(
            f"the tokenizer ends no text with token {end_token_id}, where this model reads it: is it another model's?"
        )
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown != end_token_id and bool((ids == unknown).any()):
        words = sorted({word for text in several for word in _unknown_words(tokenizer, text, unknown)})
        say_once(f"words this model has never seen: {', '.join(words[:12])}; it reads them all as one and the same")
    return ids


def _unknown_words(tokenizer: Any, text: str, unknown: int) -> list[str]:
    pieces = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [
        text[start:end]
        for number, (start, end) in zip(pieces["input_ids"], pieces["offset_mapping"], strict=True)
        if number == unknown
    ]
