"""Train the small tokenizer of the drawn captions: one number per word, punctuation left out.

    python -m training.vocabulary jepa_hub/tokenizers/captions.json

The words are those of the scenes' stored captions and phrases and of the quadrants' captions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from jepa_hub.models.tokenizing import SPECIAL

UNKNOWN, PAD, START, END = SPECIAL.values()
SAMPLES = 400  # scenes whose captions are read: each word of their grammar is among them many times


def texts() -> Iterator[str]:
    """Captions of every drawn source that has some."""
    from training.config import CaptionSettings
    from training.data import quadrants
    from training.data.captions import captions_of
    from training.data.scenes import Scenes

    source = Scenes(Scenes.Settings(size=16, num_samples=SAMPLES, max_objects=8, cache=None))
    for start in range(0, SAMPLES, 100):
        for sample in source.render_samples(range(start, start + 100)):
            yield from sample.captions
            yield from captions_of(sample, CaptionSettings(kind="scene"))
    for things, positions in product(range(len(quadrants.THINGS)), (True, False)):
        yield from quadrants.captions([things] * len(quadrants.PLACES), positions=positions)


def train(captions: Iterator[str]) -> Tokenizer:
    """A tokenizer with a number for every word of some captions: special tokens first, words by how often they are."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\w]+"), behavior="removed")
    tokenizer.train_from_iterator(
        captions, trainers.WordLevelTrainer(special_tokens=list(SPECIAL.values()), show_progress=False)
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.vocabulary", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the file to write, such as jepa_hub/tokenizers/captions.json")
    chosen = parser.parse_args(arguments)
    tokenizer = train(texts())
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens in {chosen.out}")


if __name__ == "__main__":
    main()
