"""Llip models: CLIP's towers, the mixing, official files, tokenizers, and what is refused. 8 seconds."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from jepa_hub import catalog
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.llip import LlipModel
from jepa_hub.models.llip_config import LLIPS, LlipConfig
from tests.official import tiny_config, tiny_model, tiny_pixels

IDS = torch.tensor([[5, 6, 3, 0], [7, 3, 0, 0], [9, 8, 7, 3]])


def parts(model: LlipModel, ids: Tensor = IDS) -> tuple[Any, Any]:
    return model.encode_image(tiny_pixels("llip")), model.encode_text(ids)


# ----------------------------------------------------------------------------------------------------------- towers


def clip_names(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Blocks of transformers' CLIP under our names."""
    found: dict[str, Tensor] = {}
    rest = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    names = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}
    for name, tensor in rest.items():
        if not name.startswith("encoder.layers."):
            continue
        block, part = name.removeprefix("encoder.layers.").split(".", 1)
        kind = part.split(".")[-1]
        if "q_proj" in part:
            qkv = [rest[name.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")]
            found[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(qkv)
        elif "k_proj" not in part and "v_proj" not in part:
            found[f"blocks.{block}.{names.get(part.rsplit('.', 1)[0], part.rsplit('.', 1)[0])}.{kind}"] = tensor
    return found


def test_the_text_tower_is_clips() -> None:
    torch.manual_seed(0)
    settings = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = CLIPTextModel(
        CLIPTextConfig(**settings, vocab_size=40, max_position_embeddings=9, eos_token_id=3, hidden_act="quick_gelu")
    ).eval()
    model = tiny_model("llip", text_num_hidden_layers=2)
    ours = model.text.encoder
    state = {name.removeprefix("text_model."): tensor for name, tensor in theirs.state_dict().items()}
    renamed = clip_names(state, "")
    renamed |= {
        "embedding.weight": state["embeddings.token_embedding.weight"],
        "positions": state["embeddings.position_embedding.weight"],
        "norm.weight": state["final_layer_norm.weight"],
        "norm.bias": state["final_layer_norm.bias"],
    }
    ours.load_state_dict(renamed)
    with torch.no_grad():
        expected = theirs(IDS).pooler_output
        assert torch.allclose(ours(IDS), expected, atol=1e-5)
        assert torch.allclose(ours(IDS[1:2, :2]), expected[1:2], atol=1e-5)  # padding does not matter
        model.set_attn_implementation("eager")
        assert torch.allclose(ours(IDS), expected, atol=1e-5)


def test_the_vision_tower_with_one_token_is_clips() -> None:
    torch.manual_seed(0)
    settings = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = CLIPVisionModel(CLIPVisionConfig(**settings, image_size=32, patch_size=8, hidden_act="quick_gelu")).eval()
    model = tiny_model("llip", num_mixture_tokens=1)
    ours = model.encoder
    state = {name.removeprefix("vision_model."): tensor for name, tensor in theirs.state_dict().items()}
    table = state["embeddings.position_embedding.weight"]
    renamed = clip_names(state, "")
    renamed |= {
        "mixture_tokens": state["embeddings.class_embedding"][None],
        "mixture_positions": table[:1],
        "positions.table": table[1:],
        "patch_embed.proj.weight": state["embeddings.patch_embedding.weight"].flatten(1),
        **{f"norm_pre.{kind}": state[f"pre_layrnorm.{kind}"] for kind in ("weight", "bias")},
        **{f"norm.{kind}": state[f"post_layernorm.{kind}"] for kind in ("weight", "bias")},
    }
    ours.load_state_dict(renamed)
    pixels = tiny_pixels("llip")
    with torch.no_grad():
        out = theirs(pixels[:, :, 0])
        assert torch.allclose(ours.mixture(pixels)[:, 0], out.pooler_output, atol=1e-5)
        normed = torch.nn.functional.layer_norm(
            out.last_hidden_state[:, 1:], (48,), ours.norm.weight, ours.norm.bias, 1e-5
        )
        assert torch.allclose(model.encode(pixels).tokens, normed, atol=1e-5)


def test_mixture_tokens_are_those_of_the_whole_pass() -> None:
    model, pixels = tiny_model("llip"), tiny_pixels("llip")
    with torch.no_grad():
        whole = model.encoder.all_tokens(pixels)
        assert torch.allclose(model.encoder.mixture(pixels), whole[:, :3], atol=1e-5)
        assert torch.allclose(model.encode(pixels).tokens, whole[:, 3:], atol=1e-6)
        layers = model.encode(pixels, layers=[0, -1]).layers
        assert layers[0].shape == (2, 16, 48) and torch.allclose(layers[-1], whole[:, 3:], atol=1e-6)


# millions of weights of CLIP models with one token: OpenAI's and LAION's own counts, without a bias
CLIPS = {
    "vit_base_patch32": 151_277_313,
    "vit_base_patch16": 149_620_737,
    "vit_large_patch14": 427_616_513,
    "vit_huge_patch14": 986_109_441,
}
# millions (all, vision with its projection, text), as the table of models in LAION's model cards rounds them
CLIP_MILLIONS = {
    "vit_base_patch32": (151.28, 87.85, 63.43),
    "vit_base_patch16": (149.62, 86.19, 63.43),
    "vit_large_patch14": (427.62, 303.97, 123.65),
    "vit_huge_patch14": (986.11, 632.08, 354.03),
    "vit_gigantic_patch14": (2539.57, 1844.91, 694.66),
}


@pytest.mark.parametrize("size", LLIPS)
def test_published_sizes_have_the_published_counts(size: str) -> None:
    def numel(module: torch.nn.Module) -> int:
        return sum(each.numel() for each in module.parameters())

    def made(**settings: Any) -> LlipModel:
        with torch.device("meta"):
            return LlipModel(LlipConfig.of_size(size, **settings))

    clip, llip = made(num_mixture_tokens=1, mixing="first", mixing_norm=False), made()
    plain, many, config = numel(clip), numel(llip), llip.config
    if size in CLIPS:
        assert plain == CLIPS[size] + 1  # the bias
    vision = numel(clip.encoder) + clip.mixing.value_proj.numel()
    assert [round(each / 1e6, 2) for each in (plain, vision, numel(clip.text))] == list(CLIP_MILLIONS[size])
    width, size_, tokens, text = config.hidden_size, config.embed_size, 64, config.text_hidden_size
    more = 2 * (tokens - 1) * width + (2 * tokens - 1) * width * size_ + text * size_ + size_**2
    assert many - plain == more + (6 * size_ if config.mixing_norm else 0)
    assert config.num_mixture_tokens == 64 and config.num_mixing_heads == 8


# ----------------------------------------------------------------------------------------------------------- mixing


def naive(model: LlipModel, image: Any, text: Any, temperature: float) -> tuple[Tensor, Tensor]:
    """Vectors [B, T, E] and weights [B, T, H, K] by loops."""
    heads, width = model.config.num_mixing_heads, model.config.embed_size // model.config.num_mixing_heads
    rows, shares = [], []
    for keys, values in zip(image.keys, image.values, strict=True):
        for query in text.queries:
            out, share = [], []
            for head in range(heads):
                cut = slice(head * width, (head + 1) * width)
                weights = (keys[:, cut] @ query[cut] / temperature).softmax(0)
                out.append(weights @ values[:, cut])
                share.append(weights)
            assert model.mixing.output is not None
            rows.append(torch.nn.functional.normalize(torch.cat(out) @ model.mixing.output.weight.T, dim=0))
            shares.append(torch.stack(share))
    shape = (len(image.keys), len(text.queries))
    return torch.stack(rows).unflatten(0, shape), torch.stack(shares).unflatten(0, shape)


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_mixing_is_its_formula(temperature: float | None) -> None:
    model = tiny_model("llip", mixing_norm=True)
    image, text = parts(model)
    mixed = model.mix(image, text, temperature=temperature)
    vectors, weights = naive(model, image, text, temperature or 1.0)
    assert torch.allclose(mixed.vectors, vectors, atol=1e-5) and torch.allclose(mixed.weights, weights, atol=1e-5)
    assert torch.allclose(mixed.weights.sum(-1), torch.ones(2, 3, 2)) and mixed.weights.std() > 0.01
    cosines = (vectors * text.targets).sum(-1)
    expected = cosines * model.mixing.logit_scale.exp() + model.mixing.logit_bias
    assert torch.allclose(model.logits(image, text, temperature=temperature), expected, atol=1e-4)
    assert torch.allclose(text.targets.norm(dim=-1), torch.ones(3))
    assert not torch.allclose(text.queries.norm(dim=-1), torch.ones(3), atol=0.1)


def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    from jepa_hub.models import llip

    model = tiny_model("llip")
    image, text = model.encode_image(tiny_pixels("llip", batch=5)), model.encode_text(IDS)
    whole = model.logits(image, text)
    monkeypatch.setattr(llip, "_CHUNK", 2 * text.queries.numel())
    assert torch.allclose(model.logits(image, text), whole, atol=1e-6)


def test_an_infinite_temperature_is_the_uniform_mixture() -> None:
    model = tiny_model("llip")
    image, text = parts(model)
    mixed = model.mix(image, text, temperature=1e9)
    assert torch.allclose(mixed.vectors, image.pooled[:, None].expand_as(mixed.vectors), atol=1e-6)
    assert torch.allclose(mixed.weights, torch.full_like(mixed.weights, 1 / 3), atol=1e-6)
    assert not torch.allclose(model.mix(image, text).vectors, mixed.vectors, atol=1e-3)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        model.mix(image, text, temperature=0)


def test_swapped_texts_swap_columns() -> None:
    model = tiny_model("llip")
    image, _ = parts(model)
    order = torch.tensor([2, 0, 1])
    logits = model.logits(image, model.encode_text(IDS))
    assert torch.allclose(model.logits(image, model.encode_text(IDS[order])), logits[:, order], atol=1e-5)


def test_one_token_is_siglip() -> None:
    model = tiny_model("llip", num_mixture_tokens=1)
    plain = tiny_model("llip", num_mixture_tokens=1, mixing="first")
    state = model.state_dict()
    folded = torch.einsum("kde,fe->kdf", state["mixing.value_proj"], state["mixing.output.weight"])
    kept = {name: tensor for name, tensor in state.items() if name in plain.state_dict()}
    plain.load_state_dict(kept | {"mixing.value_proj": folded})
    image, text = parts(model)
    siglip, asked = parts(plain)
    expected = siglip.pooled @ asked.targets.T * state["mixing.logit_scale"].exp() + state["mixing.logit_bias"]
    assert torch.allclose(model.logits(image, text), expected, atol=1e-4)
    assert torch.allclose(plain.logits(siglip, asked), expected, atol=1e-6)
    with pytest.raises(ValueError, match="a picture has one vector"):
        plain.mix(siglip, asked)


@pytest.mark.parametrize("mixing", ["uniform", "learned", "first"])
def test_mixings_without_text(mixing: str) -> None:
    model = tiny_model("llip", mixing=mixing)
    image, text = parts(model)
    assert model.mixing.key_proj is None and model.text.query is None and not model.mixes_by_text
    if mixing == "uniform":
        expected = image.values.mean(1)
    elif mixing == "first":
        expected = image.values[:, 0]
    else:
        share = model.mixing.token_weights.softmax(-1)
        assert share.std() > 0
        expected = torch.cat([share[h] @ image.values[:, :, 8 * h : 8 * h + 8] for h in range(2)], dim=-1)
    assert torch.allclose(image.pooled, torch.nn.functional.normalize(expected, dim=-1), atol=1e-6)
    assert torch.equal(model.logits(image, text), model.scaled(image.pooled @ text.targets.T))


def test_mixed_patches() -> None:
    model = tiny_model("llip", mix_patches=True)
    image, text = parts(model)
    assert image.keys.shape == (2, 3 + 16, 16)
    with torch.no_grad():
        tokens = model.encoder.all_tokens(tiny_pixels("llip"))
    assert torch.allclose(image.values[:, 7], tokens[:, 7] @ model.mixing.value_proj[7], atol=1e-5)
    assert model.mix(image, text).weights.shape == (2, 3, 2, 19)
    with pytest.raises(ValueError, match="must be 32 pixels"):
        model.encode_image(torch.randn(1, 3, 40, 32))


def test_gradients_reach_every_weight() -> None:
    model = tiny_model("llip", mixing_norm=True).train()
    image, text = model.image_parts(tiny_pixels("llip")), model.text_parts(IDS)
    model.pair_logits(image.keys, image.values, text.queries, text.targets).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# ------------------------------------------------------------------------------------------------------------ files


def official(prefix: str = "module.", **settings: Any) -> tuple[LlipModel, dict[str, Any]]:
    """A tiny model, and its file in the layout of the official code, written name by name from its own definition."""
    model = tiny_model("llip", **settings)
    state = model.state_dict()
    found = {
        "visual.class_embedding": state["encoder.mixture_tokens"],
        "visual.conv1.weight": state["encoder.patch_embed.proj.weight"].view(48, 3, 8, 8),
        "visual.positional_embedding": torch.cat(
            [state["encoder.mixture_positions"], state["encoder.positions.table"]]
        ),
        "token_embedding.weight": state["text.encoder.embedding.weight"],
        "positional_embedding": state["text.encoder.positions"],
        "text_projection": state["text.target.weight"].T,
        "q_proj": state["text.query.weight"].T,
        "k_proj": state["mixing.key_proj"],
        "v_proj": state["mixing.value_proj"],
        "pred.out_proj": state["mixing.output.weight"].T,
        "logit_scale": state["mixing.logit_scale"][0],
        "logit_bias": state["mixing.logit_bias"][0],
    }
    for kind in ("weight", "bias"):
        norms = {"visual.ln_pre": "encoder.norm_pre", "visual.ln_post": "encoder.norm", "ln_final": "text.encoder.norm"}
        if settings.get("mixing_norm"):
            norms |= {"K_norm": "mixing.key_norm", "V_norm": "mixing.value_norm", "Q_norm": "text.query_norm"}
        found |= {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for theirs, ours in norms.items()}
        for theirs, ours, depth in (("visual.transformer", "encoder", 2), ("transformer", "text.encoder", 1)):
            for block in range(depth):
                here, there = f"{ours}.blocks.{block}", f"{theirs}.resblocks.{block}"
                found |= {
                    f"{there}.attn.in_proj_{kind}": state[f"{here}.attn.qkv.{kind}"],
                    f"{there}.attn.out_proj.{kind}": state[f"{here}.attn.proj.{kind}"],
                    f"{there}.ln_1.{kind}": state[f"{here}.norm1.{kind}"],
                    f"{there}.ln_2.{kind}": state[f"{here}.norm2.{kind}"],
                    f"{there}.mlp.c_fc.{kind}": state[f"{here}.mlp.fc1.{kind}"],
                    f"{there}.mlp.c_proj.{kind}": state[f"{here}.mlp.fc2.{kind}"],
                }
    return model, {"epoch": 32, "state_dict": {prefix + name: tensor.contiguous() for name, tensor in found.items()}}


@pytest.mark.parametrize("norm", [False, True])
def test_official_files(tmp_path: Path, norm: bool) -> None:
    model, checkpoint = official(mixing_norm=norm, end_token_id=39)
    torch.save(checkpoint, tmp_path / "llip.pt")
    known = {"num_attention_heads": 2, "text_num_attention_heads": 2, "num_mixing_heads": 2, "mixing_temperature": 1.0}
    again = LlipModel.from_pretrained(tmp_path / "llip.pt", **known)
    ids = IDS.clone()
    ids[ids == 3] = 39
    assert again.config.mixing_norm == norm and again.config.image_size == 32 and again.config.context_length == 9
    expected, got = (each.logits(*parts(each, ids)) for each in (model, again))
    assert torch.allclose(expected, got, atol=1e-5)
    again.save_official(tmp_path / "again.pt")
    written = torch.load(tmp_path / "again.pt", weights_only=True)["state_dict"]
    assert written.keys() == checkpoint["state_dict"].keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in checkpoint["state_dict"].items())
    old = {name.replace("module.pred.", "module."): tensor for name, tensor in checkpoint["state_dict"].items()}
    torch.save({"state_dict": old}, tmp_path / "old.pt")
    old_model = LlipModel.from_pretrained(tmp_path / "old.pt", **known)
    assert torch.equal(old_model.logits(*parts(old_model, ids)), got)
    with pytest.raises(ValueError, match="heads of width 48 are unknown"):
        LlipModel.from_pretrained(tmp_path / "llip.pt")
    with pytest.raises(ValueError, match=r"llip checkpoint .* not ijepa"):
        JEPAModel.from_pretrained(tmp_path / "llip.pt", family="ijepa")
    checkpoint["state_dict"]["module.visual.extra"] = torch.zeros(1)
    torch.save(checkpoint, tmp_path / "llip.pt")
    with pytest.raises(ValueError, match=r"unexpected: visual.extra"):
        LlipModel.from_pretrained(tmp_path / "llip.pt", **known)


# ---------------------------------------------------------------------------------------------------------- refused


def test_what_is_refused() -> None:
    model = tiny_model("llip")
    with pytest.raises(ValueError, match="predicts no tokens"):
        model.predict(tiny_pixels("llip"), context=[0], target=[1])
    with pytest.raises(ValueError, match="take"):
        model.encode_text(torch.zeros(1, 10, dtype=torch.int64))
    with pytest.raises(ValueError, match="without a tokenizer"):
        model.encode_text("a cube")
    for settings, words in (
        ({"mixing": "texts"}, "mixing is one of"),
        ({"num_mixing_heads": 3}, "a divisor of"),
        ({"num_frames": 2}, "takes pictures"),
        ({"position_type": "rotary_tiled"}, "no place on the grid"),
        ({"mix_patches": True, "mixing": "first"}, "mix_patches"),
        ({"networks": ["encoder", "predictor"]}, "one network"),
    ):
        with pytest.raises(ValueError, match=words):
            tiny_config("llip", **settings)


def test_half_precision_and_copies() -> None:
    model = tiny_model("llip")
    image, text = parts(model)
    full = model.logits(image, text)
    half = copy.deepcopy(model).to(torch.bfloat16)
    pixels = tiny_pixels("llip").to(torch.bfloat16)
    got = half.logits(half.encode_image(pixels), half.encode_text(IDS))
    assert (got.float() - full).abs().max() < 0.6  # a scale of 14 on cosines of 8 bits


def test_the_card_shows_pictures_and_words() -> None:
    from jepa_hub.card import card

    text = card(tiny_model("llip"), "someone/llip")
    assert "pipeline_tag: zero-shot-image-classification" in text
    assert 'model.logits(processor("photo.jpg"), ["a red cube", "a blue sphere"])' in text
    shipped = (Path(catalog.__file__).parent / "weights" / "llip-tiny-scenes" / "README.md").read_text()
    assert re.findall("^logits = .*$", shipped, re.MULTILINE) == re.findall("^logits = .*$", text, re.MULTILINE)
