"""Zero-shot classes, two-stage retrieval, multi-caption metrics, the command. 12 seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from jepa_hub import cli, zero_shot
from jepa_hub.models.llip import LlipModel, TextParts
from jepa_hub.retrieval import Gallery, map_at_r, recall_at, tradeoff
from jepa_hub.zero_shot_command import DEFAULT
from tests.official import tiny_model, tiny_pixels

WEIGHTS = Path(zero_shot.__file__).parent / "weights"
LABELS = ("red", "blue", "green", "cube")


def small(**settings: Any) -> LlipModel:
    model = tiny_model("llip", **{"tokenizer": "package:captions", "vocab_size": 59, **settings})
    assert isinstance(model, LlipModel)
    return model


# ----------------------------------------------------------------------------------------------------------- classes


def test_classes_are_means_over_templates() -> None:
    model, templates = small(), ("{}", "a {} object", lambda name: f"the {name} cone")
    classes = zero_shot.encode_classes(model, LABELS, templates)
    for place, name in enumerate(LABELS):
        texts = [model.encode_text(text) for text in (name, f"a {name} object", f"the {name} cone")]
        query = torch.stack([each.queries[0] for each in texts]).mean(0)
        target = torch.stack([each.targets[0] for each in texts]).mean(0)
        assert torch.allclose(classes.texts.queries[place], query, atol=1e-5)
        assert torch.allclose(classes.texts.targets[place], target / target.norm(), atol=1e-5)
    image = model.encode_image(tiny_pixels("llip"))
    mixed = model.mix(image, classes.texts).vectors
    expected = (mixed * classes.texts.targets).sum(-1)  # [B, C]
    assert torch.allclose(zero_shot.scores(model, image, classes), expected, atol=1e-5)
    found = zero_shot.classify(model, tiny_pixels("llip")[:, :, 0], classes, top=2)
    shares = (expected * model.mixing.logit_scale.exp()).softmax(-1).sort(descending=True)
    assert torch.allclose(found.probabilities, shares.values[:, :2], atol=1e-5)
    assert found.labels == [[LABELS[place] for place in row[:2]] for row in shares.indices.tolist()]
    assert found.labels == zero_shot.classify(model, image, LABELS, templates=templates, top=2).labels


def test_pieces_and_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    image, classes = model.encode_image(tiny_pixels("llip")), zero_shot.encode_classes(model, LABELS)
    whole = zero_shot.scores(model, image, classes)
    monkeypatch.setattr(zero_shot, "_NUMBERS", 3 * 16)
    monkeypatch.setattr(zero_shot, "_TEXTS", 3)
    assert torch.allclose(zero_shot.scores(model, image, classes), whole, atol=1e-6)
    assert torch.allclose(zero_shot.encode_classes(model, LABELS).texts.queries, classes.texts.queries, atol=1e-6)
    other = zero_shot.scores(model, image, classes, temperature=20.0)
    assert not torch.allclose(other, whole, atol=1e-3)
    uniform = zero_shot.scores(model, image, classes, temperature=1e9)
    assert torch.allclose(uniform, image.pooled @ classes.texts.targets.T, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "templates", "words"),
    [
        (["red"], ("{}",), "at least two"),
        ("red", ("{}",), "at least two"),
        (["red", "red"], ("{}",), "must differ"),
        (["red", " "], ("{}",), "one is empty"),
        (["red", "blue"], ("a thing",), "holds {}"),
        (["red", "blue"], (), "no template"),
    ],
)
def test_bad_classes(names: Any, templates: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        zero_shot.encode_classes(small(), names, templates)


def test_unknown_words_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    model = small()
    model.tokenize(["a red zebra", "Red, CUBE!"])
    assert "never seen: zebra" in capsys.readouterr().err
    assert model.tokenize("Red, CUBE!").tolist() == model.tokenize("red cube").tolist()
    ids = model.tokenize(["red", "a red cube and a blue cone and a green cube and a red cone"])
    assert ids.shape == (2, 9) and ids[1, -1] == 3 and ids[0].tolist()[2:4] == [3, 1]  # cut, and padded
    with pytest.raises(ValueError, match="are empty"):
        model.tokenize(["red", ""])
    with pytest.raises(ValueError, match="no text"):
        model.tokenize([])
    with pytest.raises(ValueError, match="another model's"):
        small(end_token_id=9).tokenize("red")


def test_a_tokenizer_travels_with_the_model(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    again = LlipModel.from_pretrained(tmp_path, tokenizer=None)  # its own comes first
    assert again.tokenize("a red cube").tolist() == model.tokenize("a red cube").tolist() != []
    image = model.encode_image(tiny_pixels("llip"))
    assert torch.allclose(again.logits(image, "a red cube"), model.logits(image, "a red cube"), atol=1e-5)
    with pytest.raises(ValueError, match="no tokenizer package:nothing; this package has captions"):
        small(tokenizer="package:nothing").tokenize("red")


# --------------------------------------------------------------------------------------------------------- retrieval


def gallery(**settings: Any) -> tuple[Gallery, TextParts]:
    model = small(**settings)
    pixels = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return Gallery.of(model, pixels.split(16)), model.encode_text(["red cube", "blue cone", "two", "green", "a left"])


def test_an_exact_search_ranks_by_the_mixed_vectors() -> None:
    found, texts = gallery()
    cosines = found.model.cosines(found.parts, texts)  # [40, 5]
    expected = cosines.T.topk(6, dim=-1)
    for shortlist in (None, 40, 400):
        exact = found.search(texts, top=6, shortlist=shortlist)
        assert torch.equal(exact.indices, expected.indices)
        assert torch.allclose(exact.scores, expected.values, atol=1e-5)
    assert len(found) == 40


def test_a_shortlist_is_re_ranked_exactly() -> None:
    found, texts = gallery()
    near = found.search(texts, top=3, shortlist=8)
    cosines = found.model.cosines(found.parts, texts).T  # [5, 40]
    candidates = (texts.targets @ found.parts.pooled.T).topk(8, dim=-1).indices
    for row in range(5):
        best = candidates[row][cosines[row, candidates[row]].topk(3).indices]
        assert near.indices[row].tolist() == best.tolist()
    assert torch.allclose(near.scores, cosines.gather(1, near.indices), atol=1e-5)
    assert (near.indices != found.search(texts, top=3, shortlist=None).indices).any()  # else nothing was tested
    with pytest.raises(ValueError, match=r"top \(9\) .* shortlist \(8\)"):
        found.search(texts, top=9, shortlist=8)
    with pytest.raises(ValueError, match="at least one picture"):
        Gallery.of(found.model, [])


def test_texts_of_pictures_and_models_without_mixing() -> None:
    found, texts = gallery()
    cosines = found.model.cosines(found.parts, texts)
    assert torch.equal(found.describe(texts, top=2).indices, cosines.topk(2, dim=-1).indices)
    plain, asked = gallery(mixing="first", num_mixture_tokens=1)
    whole = plain.search(asked, top=4, shortlist=None)
    assert torch.equal(plain.search(asked, top=4, shortlist=4).indices, whole.indices)  # nothing to re-rank


def test_recall_and_map_with_several_captions() -> None:
    cosines = torch.tensor([[0.9, 0.5, 0.1, 0.8], [0.2, 0.3, 0.4, 0.1], [0.0, 0.1, 0.2, 0.3]])
    truth = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    assert recall_at(cosines, truth, 1) == pytest.approx(0.5)  # the third row has no caption
    assert recall_at(cosines, truth, 2) == pytest.approx(1.0)
    # row 0: best are 0 (wrong), 3 (right): (0 + 1/2) / 2; row 1: 1
    assert map_at_r(cosines, truth) == pytest.approx((0.25 + 1) / 2)
    assert map_at_r(truth.double(), truth) == 1.0
    assert recall_at(cosines.T, truth.T, 1) == 1.0 and recall_at(-cosines.T, truth.T, 1) == 0.0
    assert recall_at(-cosines.T, truth.T, 2) == 0.0 and recall_at(-cosines.T, truth.T, 3) == 1.0
    with pytest.raises(ValueError, match=r"k must be 1 \.\. 4"):
        recall_at(cosines, truth, 5)
    with pytest.raises(ValueError, match="must be one"):
        recall_at(cosines, truth.double(), 1)
    with pytest.raises(ValueError, match="no row"):
        map_at_r(cosines, truth & False)


def test_a_tradeoff_ends_at_the_exact_search() -> None:
    found, texts = gallery()
    cosines = found.model.cosines(found.parts, texts).T  # [5, 40]
    truth: Tensor = cosines > cosines.quantile(0.9, dim=1, keepdim=True)
    truth[4] = False  # a text without a picture does not count
    rows = tradeoff(found, texts, truth, (3, 10, 99), k=3, repeats=2)
    assert [row.shortlist for row in rows] == [3, 10, 40]
    assert rows[-1].agreement == 1.0 and rows[0].agreement <= rows[1].agreement < 1.0
    assert all(row.milliseconds > 0 for row in rows)
    exact = found.search(texts, top=3, shortlist=None).indices
    assert rows[-1].recall == pytest.approx(truth.gather(1, exact).any(1)[:4].double().mean().item())


# ----------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from jepa_hub.processing import JEPAProcessor

    small().save_pretrained(tmp_path / "model")
    JEPAProcessor(image_size=32, resize=32, patch_size=8).save_pretrained(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for name in ("one", "two"):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "torn.png").write_bytes(b"no picture")
    (tmp_path / "names.txt").write_text("green\na cube\n\n")
    return tmp_path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["zero-shot", *map(str, arguments)])


def test_the_command(folder: Path) -> None:
    photos, model = folder / "photos", folder / "model"
    told = run(photos, "--labels", "red, blue", "--labels", folder / "names.txt", "-m", model, "--top", 4, "--json")
    assert told.exit_code == 0, told.output
    rows = json.loads(told.stdout)
    assert [Path(row["path"]).name for row in rows] == ["one.png", "torn.png", "two.png"]
    assert sorted(rows[0]["labels"]) == ["a cube", "blue", "green", "red"] and rows[1]["error"]
    assert sum(rows[0]["probabilities"]) == pytest.approx(1, abs=1e-5)
    from jepa_hub.processing import JEPAProcessor

    pixels = JEPAProcessor.from_pretrained(model)(str(photos / "one.png"))
    expected = zero_shot.classify(LlipModel.from_pretrained(model), pixels, ["red", "blue", "green", "a cube"], top=4)
    assert rows[0]["labels"] == expected.labels[0]
    assert rows[0]["probabilities"] == pytest.approx(expected.probabilities[0].tolist(), abs=1e-5)
    text = run(photos / "one.png", "--labels", "red,blue", "-m", model, "--template", "a {} cube")
    assert text.exit_code == 0 and text.stdout.startswith(f"{photos / 'one.png'}: ") and "%" in text.stdout
    assert run(photos, "--labels", "red,blue", "-m", model, "--strict").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labels", "red"], "at least two names"),
        (["--labels", "nowhere.txt"], "no file nowhere.txt"),
        (["--labels", "red,blue", "-m", "ijepa-tiny-scenes"], "reads no texts"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], words: str, folder: Path) -> None:
    given = arguments if "-m" in arguments else [*arguments, "-m", str(folder / "model")]
    told = run(folder / "photos" / "one.png", *given)
    assert told.exit_code == 1 and words in told.stderr, told.output


# ------------------------------------------------------------------------------------------------------- what ships


def test_the_shipped_model_names_what_it_was_never_told(tmp_path: Path) -> None:
    from jepa_hub.processing import JEPAProcessor
    from training.data.scene_graph import COLOURS
    from training.data.scenes import Scenes

    source = Scenes(Scenes.Settings(num_samples=96, split="test", max_objects=1, cache=None))
    samples = source.render_samples(range(96))
    pictures = [each.pixels.permute(1, 2, 0).numpy() for each in samples]
    model, processor = LlipModel.from_pretrained(DEFAULT), JEPAProcessor.from_pretrained(DEFAULT)
    image = model.encode_image(processor(pictures))
    true = torch.tensor([each.labels["colour"] for each in samples])
    classes = zero_shot.encode_classes(model, list(COLOURS), ["a {} object"])
    named = zero_shot.scores(model, image, classes).argmax(dim=1)
    assert (named == true).float().mean() > 0.7  # chance: 12.5 %
    assert (named.roll(1) == true).float().mean() < 0.35  # pictures exchanged

    first = int((named == true).nonzero()[0])
    Image.fromarray(pictures[first]).save(tmp_path / "photo.png")
    told = run(tmp_path / "photo.png", "--labels", ", ".join(COLOURS), "--template", "a {} object", "--json")
    assert json.loads(told.stdout)[0]["labels"][0] == list(COLOURS)[true[first]]


def test_the_shipped_model_brings_its_tokenizer() -> None:
    own = WEIGHTS / DEFAULT / "tokenizer.json"
    assert own.is_file()
    model = LlipModel.from_pretrained(DEFAULT)
    model.config.tokenizer = None  # so that only its own is left
    shipped = LlipModel.from_pretrained(DEFAULT).tokenize(["a red cube", "two objects"])
    assert model.tokenize(["a red cube", "two objects"]).equal(shipped) and not bool((shipped == 0).any())
