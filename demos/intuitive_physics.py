"""Where a model is surprised, in a minute and offline: part of `make demo`, or `python -m demos.intuitive_physics`.

Draws pairs of the simulated worlds, a possible clip above an impossible one that begins alike, with the surprise of the
shipped V-JEPA at every step and the violation marked; then scores the model on a part of the suite.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from jepa_hub.models.base import JEPAModel
from jepa_hub.physics.evaluation import evaluate
from jepa_hub.physics.showing import show_pairs
from jepa_hub.physics.tables import markdown, score_table
from jepa_hub.physics.worlds import worlds_suite
from jepa_hub.processing import JEPAProcessor

MODEL = "vjepa-tiny-worlds"
SHOWN = ("permanence", "colour", "continuity", "shape")


def surprise(out: Path) -> None:
    """The picture and the table."""
    model, processor = JEPAModel.from_pretrained(MODEL), JEPAProcessor.from_pretrained(MODEL)
    picture = show_pairs(
        out / "surprise.png", model=model, processor=processor, properties=SHOWN, variants=["resting"], number=1
    )
    suite = worlds_suite(seen=False, properties=["permanence"])
    raw = evaluate(model, processor, suite, out / "surprise.jsonl", overwrite=True, progress=False)
    table = markdown(score_table(raw, ["mean"]), context="8")
    print(
        f"surprise      {picture}  (possible above impossible, the violation marked, surprise of {MODEL})\n"
        f"object permanence, {len(raw.videos)} clips, chance is 50:\n{table}\n"
        f"All properties: jepa-hub physics eval --suite worlds --model {MODEL}"
    )


def main() -> None:
    """Run the demo; everything it writes is in --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for the picture")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    surprise(out)


if __name__ == "__main__":
    main()
