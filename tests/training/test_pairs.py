"""Pairs of pictures and texts: formulas, chunks and the ring against the dense loss, captions, costs. 20 seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jepa_hub.models.llip import LlipModel
from jepa_hub.models.tokenizing import FOLDER
from tests.official import tiny_config, tiny_model
from tests.training.neighbour_worker import gradients
from tests.training.pair_worker import batch_of, method_of, work
from training import build, pair_costs
from training.config import CaptionSettings, Settings
from training.data.captions import caption_id, captions_of, draw_captions, scene_phrases
from training.data.quadrants import PLACES, THINGS, Quadrants
from training.data.scenes import Scenes
from training.data.source import Sample
from training.methods.pairing import chunked
from training.objectives import sigmoid_pairs, softmax_pairs

# ---------------------------------------------------------------------------------------------------------- formulas


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_sigmoid_pairs_are_their_sum() -> None:
    logits, positive = rows(3, 4), torch.zeros(3, 4, dtype=torch.bool)
    positive[0, 0] = positive[1, 1] = positive[2, 2] = positive[2, 3] = True
    ignored = torch.zeros_like(positive)
    ignored[0, 1] = ignored[2, 2] = True  # a positive counts always
    expected = 0.0
    for i in range(3):
        for j in range(4):
            if positive[i, j]:
                expected -= float(logits[i, j].sigmoid().log())
            elif not ignored[i, j]:
                expected -= float((-logits[i, j]).sigmoid().log())
    assert sigmoid_pairs(logits, positive, ignored).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="must be one"):
        sigmoid_pairs(logits, positive[:2])


def test_softmax_pairs_are_cross_entropies() -> None:
    logits = rows(4, 4)
    positive = torch.eye(4, dtype=torch.bool)
    assert softmax_pairs(logits, positive).item() == pytest.approx(
        F.cross_entropy(logits, torch.arange(4)).item(), rel=1e-12
    )
    ignored = torch.zeros_like(positive)
    ignored[0, 3] = True
    expected = torch.stack([logits[0, :3].logsumexp(0) - logits[0, 0], *(logits[1:].logsumexp(1) - logits[1:].diag(1))])
    assert softmax_pairs(logits, positive, ignored).item() == pytest.approx(expected.mean().item(), rel=1e-12)
    with pytest.raises(ValueError, match="every row needs a positive"):
        softmax_pairs(logits, positive & False)


# ------------------------------------------------------------------------------------------------- chunks and the ring


def dense(settings: dict[str, Any], captions: int = 1, **model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one process that holds every mixture, written out without the method."""
    method = method_of(settings, **model)
    batch, made = batch_of(None, captions), method.model
    image = made.image_parts(batch["pixels"])
    text = made.text_parts(made.tokenize(batch["captions"]))
    if settings.get("query") == "own":
        alone = zip(image.keys, image.values, text.queries, strict=True)
        own = torch.stack([made.mixing(key[None], value[None], query[None])[0, 0] for key, value, query in alone])
        cosines = own @ text.targets.T
    elif made.mixes_by_text:
        cosines = torch.einsum("bte,te->bt", made.mixing(image.keys, image.values, text.queries), text.targets)
    else:
        cosines = image.pooled @ text.targets.T
    logits = cosines * made.mixing.logit_scale.exp() + made.mixing.logit_bias
    positive = torch.arange(8)[:, None] == torch.arange(8 * captions) // captions
    keep = torch.ones_like(positive)
    if settings.get("known") != "negative":
        for i, known in enumerate(batch["known_ids"].tolist()):
            for j, number in enumerate(batch["caption_ids"].tolist()):
                keep[i, j] = positive[i, j] or number not in known
    assert not keep.all() or settings.get("known") == "negative"
    if settings.get("objective") == "softmax":
        masked = logits.masked_fill(~keep, -torch.inf)
        own_texts = logits[positive].view(8, captions)
        by_picture = (masked.logsumexp(1) - own_texts.mean(1)).mean()
        loss = (by_picture + (masked.logsumexp(0) - logits.T[positive.T]).mean()) / 2
    else:
        terms = F.logsigmoid(torch.where(positive, logits, -logits))
        loss = -(terms * keep).sum() / (8 * captions)
    loss.backward()
    return loss.detach(), gradients(method)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "llip": ({}, {}, 1),
    "normed": ({}, {"mixing_norm": True}, 1),
    "patches": ({}, {"mix_patches": True}, 1),
    "several captions": ({}, {}, 3),
    "negatives": ({"known": "negative"}, {}, 1),
    "softmax": ({"objective": "softmax"}, {}, 1),
    "softmax of several captions": ({"objective": "softmax"}, {}, 2),
    "shortcut": ({"query": "own"}, {}, 1),
    "siglip": ({}, {"mixing": "first", "num_mixture_tokens": 1}, 1),
    "clip": ({"objective": "softmax"}, {"mixing": "first", "num_mixture_tokens": 1}, 1),
    "learned": ({}, {"mixing": "learned"}, 1),
}


def same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert abs(found[0] - expected[0]) < 1e-5
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).abs().max() < 1e-5, name
    assert max(each.abs().max() for each in expected[1].values()) > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_chunks_equal_the_dense_loss(case: str) -> None:
    settings, model, captions = CASES[case]
    method = method_of({**settings, "chunk": 3 * 8 * captions * 16}, **model)  # three pictures at a time
    loss = method(batch_of(None, captions))["loss"]
    loss.backward()
    same((loss.detach(), gradients(method)), dense(settings, captions, **model))


@pytest.mark.parametrize(
    "case",
    [
        *("llip", "softmax of several captions"),
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("several captions", "softmax", "shortcut", "siglip")),
    ],
)
def test_two_workers_equal_one(case: str, tmp_path: Path) -> None:
    settings, model, captions = CASES[case]
    out = tmp_path / "two.pt"
    given = ({**settings, "chunk": 3 * 4 * captions * 16}, model, captions, str(out))
    start_processes(work, given, nprocs=2, start_method="spawn")
    two = torch.load(out)
    same((two["loss"], two["gradients"]), dense(settings, captions, **model))


def test_a_chunk_is_all_that_exists() -> None:
    seen: list[tuple[int, ...]] = []
    model = tiny_model("llip").double()

    def logits(keys: Tensor, *others: Tensor) -> Tensor:
        seen.append(tuple(keys.shape))
        return model.pair_logits(keys, *others)

    keys, values = rows(7, 3, 16).requires_grad_(), rows(7, 3, 16, seed=1)
    queries, targets = rows(5, 16, seed=2), rows(5, 16, seed=3)
    found = chunked(logits, keys, values, queries, targets, 2 * 5 * 16)
    assert [shape[0] for shape in seen] == [2, 2, 2, 1]
    found.sum().backward()
    assert [shape[0] for shape in seen[4:]] == [1, 2, 2, 2]  # made again, last first
    assert torch.allclose(found, model.pair_logits(keys, values, queries, targets))
    with torch.no_grad():
        assert chunked(logits, keys, values, queries, targets, 1).shape == (7, 5)


# ------------------------------------------------------------------------------------------------------------- method


def test_the_method_is_checked(settings_of: Callable[..., Settings]) -> None:
    base: dict[str, Any] = {
        "model": {"name": "llip", "image_size": 32, "patch_size": 8},
        "method": {"name": "llip"},
        "masks": None,
        "data__captions": {"per_sample": 2},
    }
    settings_of(**base)
    with pytest.raises(ValueError, match="needs texts"):
        settings_of(**{**base, "data__captions": None})
    with pytest.raises(ValueError, match="per_sample=1"):
        settings_of(**{**base, "method": {"name": "llip", "query": "own"}})
    from training.methods.llip import Llip

    with pytest.raises(ValueError, match="trains the family llip"):
        Llip(tiny_model("ijepa"), Llip.Settings())


def test_the_scale_stays_below_100() -> None:
    method = method_of({})
    with torch.no_grad():
        method.model.mixing.logit_scale.fill_(9.0)
    method.after_step(0.5)
    assert method.model.mixing.logit_scale.exp().item() == pytest.approx(100)


# ----------------------------------------------------------------------------------------------------------- captions


def test_captions_are_drawn_and_known() -> None:
    first = Sample(0, torch.zeros(3, 1, 1), captions=("a", "b", "c", "a"))
    second = Sample(1, torch.zeros(3, 1, 1), captions=("b",))
    keys = torch.tensor([11, 12])
    found = draw_captions([first, second], CaptionSettings(per_sample=3), keys)
    assert sorted(found["captions"][:3]) == ["a", "b", "c"] and found["captions"][3:] == ["b", "b", "b"]
    assert found["caption_ids"].tolist() == [caption_id(text) for text in found["captions"]]
    assert sorted(found["known_ids"][0].tolist()) == sorted(caption_id(text) for text in "abc")
    assert found["known_ids"][1].tolist() == [caption_id("b"), 0, 0]
    alone = draw_captions([second], CaptionSettings(per_sample=3), keys[1:])
    assert alone["captions"] == found["captions"][3:]  # whatever the company
    firsts = {draw_captions([first], CaptionSettings(), torch.tensor([key]))["captions"][0] for key in range(40)}
    assert firsts == {"a", "b", "c"}
    with pytest.raises(ValueError, match="sample 2 has no caption"):
        draw_captions([Sample(2, torch.zeros(3, 1, 1))], CaptionSettings(), keys[:1])
    with pytest.raises(ValueError, match="keeps no scene graph"):
        captions_of(second, CaptionSettings(kind="scene"))


def test_phrases_of_a_scene_are_true() -> None:
    source = Scenes(Scenes.Settings(size=16, num_samples=30, cache=None))
    for sample in source.render_samples(range(30)):
        scene = sample.details["scene"]
        phrases = scene_phrases(scene, positions=True)
        assert len(set(phrases)) == len(phrases)
        plain = scene_phrases(scene, positions=False)
        assert set(plain) < set(phrases)
        words = " ".join(plain).split()
        assert not {"left", "right", "middle", "behind", "front"} & set(words)
        looks = {(thing["colour"], thing["shape"]) for thing in scene}
        for phrase in phrases:
            for colour, shape in ((c, s) for c in ("red", "blue", "cyan") for s in ("cube", "cone")):
                if f"{colour} {shape}" in phrase:
                    assert (colour, shape) in looks
        lefts = [phrase for phrase in phrases if " left of " in phrase]
        assert all(phrase.split(" left of ")[::-1] != phrase.split(" left of ") for phrase in lefts)
        assert f"{['no', 'one', 'two', 'three', 'four'][len(scene)]} object" in phrases[0]


def test_quadrants() -> None:
    source = Quadrants(Quadrants.Settings(num_samples=2100, noise=0.0))
    sample = source.read(2050, 0)
    assert sample.pixels.shape == (3, 16, 16) and sample.pixels.dtype == torch.uint8
    assert torch.equal(sample.pixels, Quadrants(source.settings).read(2050, 7).pixels)
    assert [sample.labels[place.replace(" ", "_")] for place in PLACES] == sample.details["things"]
    assert sample.captions == tuple(
        f"{place}: {THINGS[thing]}" for place, thing in zip(PLACES, sample.details["things"], strict=True)
    )
    for quarter, thing in enumerate(sample.details["things"]):
        top, left = 8 * (quarter // 2), 8 * (quarter % 2)
        corner = sample.pixels[:, top : top + 8, left : left + 8]
        twin = next(  # another picture with the same thing in this quarter, wherever it lies there
            other
            for other in (source.read(index, 0) for index in range(2000))
            if other.details["things"][quarter] == thing
        ).pixels[:, top : top + 8, left : left + 8]
        assert corner.float().sum() == pytest.approx(twin.float().sum())
    things = torch.tensor([source.read(index, 0).details["things"] for index in range(2048)])
    counts = things.flatten().bincount(minlength=48)
    assert counts.min() > 110 and counts.max() < 240  # 171 expected, four standard deviations are 52
    others = [
        Quadrants(Quadrants.Settings(num_samples=9, **change)).read(0, 0).details["things"]
        for change in ({}, {"seed": 1}, {"split": "validation"}, {"split": "test"})
    ]
    assert len({tuple(each) for each in others}) == 4
    plain = Quadrants(Quadrants.Settings(num_samples=9, positions=False)).read(0, 0)
    assert all(caption.startswith("there is a ") for caption in plain.captions)
    with pytest.raises(IndexError):
        source.read(2100, 0)


def test_the_shipped_tokenizer_is_what_its_command_makes(tmp_path: Path) -> None:
    from training import vocabulary

    vocabulary.main([str(tmp_path / "captions.json")])
    assert (tmp_path / "captions.json").read_text() == (FOLDER / "captions.json").read_text()


# -------------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize(
    "model",
    [{}, {"mixing": "uniform"}, {"mixing": "first", "num_mixture_tokens": 1}, {"mix_patches": True}],
    ids=["llip", "uniform", "siglip", "patches"],
)
def test_formulas_give_what_torch_counts(model: dict[str, Any], settings_of: Callable[..., Settings]) -> None:
    own = {**tiny_config("llip").settings(), "vocab_size": 59, "context_length": 6, "tokenizer": "package:captions"}
    own = {name: value for name, value in own.items() if not name.startswith(("predictor_", "library_"))} | model
    settings = settings_of(
        model={"name": "llip", **own}, method={"name": "llip"}, masks=None, data__captions={}, data__batch_size=3
    )
    made = build.build_model(settings)
    assert isinstance(made, LlipModel)
    pixels, ids = torch.randn(3, 3, 1, 32, 32), torch.full((3, 6), 3)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        image, text = made.image_parts(pixels), made.text_parts(ids)
        if made.mixes_by_text:
            logits = made.pair_logits(image.keys, image.values, text.queries, text.targets)
        else:
            logits = made.scaled(image.pooled @ text.targets.T)
        forward = counter.get_total_flops()
        logits.sum().backward()
    count = pair_costs.step_flops(settings, made.config)
    assert sum(count.forward.values()) == pytest.approx(forward / 3, rel=0.01)
    assert count.training == pytest.approx(counter.get_total_flops() / 3, rel=0.02)
    assert (count.recomputed > 0) == made.mixes_by_text
    more = pair_costs.step_flops(settings, made.config, devices=4)
    assert more.forward["encoder"] == count.forward["encoder"] and more.forward["mixing"] > count.forward["mixing"]
    assert sum(pair_costs.count_parameters(made.config).values()) == sum(each.numel() for each in made.parameters())
