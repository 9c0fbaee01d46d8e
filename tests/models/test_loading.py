"""Loading is strict, says what is wrong, and loses nothing."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.flexpredict import FlexPredictModel
from jepa_hub.models.ijepa import IJepaConfig, IJepaModel
from jepa_hub.models.registry import MODELS, model_class
from jepa_hub.models.vjepa2 import VJepa2Model
from tests.official import official_checkpoint, tiny_config, tiny_model, tiny_pixels, write_official


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def edit_tensors(folder: Path, **changes: Tensor | None) -> None:
    """Change, add or (None) remove tensors of a saved model."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# ------------------------------------------------------------------------------------------------ what must work


@pytest.mark.parametrize("family", MODELS)
def test_round_trip_is_bit_equal(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    again = JEPAModel.from_pretrained(tmp_path)
    assert type(again) is model_class(family) and not again.training
    assert same(model.state_dict(), again.state_dict())
    assert again.config.settings() == model.config.settings()
    assert torch.equal(again.encode(tiny_pixels(family)).tokens, model.encode(tiny_pixels(family)).tokens)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == f"jepa_hub_{family}" and stored["hidden_size"] == 48


def test_foreign_file_saved_under_our_names(tmp_path: Path) -> None:
    model = JEPAModel.from_pretrained(write_official(tmp_path / "m.pth.tar", "vjepa_tiny_p16"))
    model.save_pretrained(tmp_path / "ours")
    names = load_file(tmp_path / "ours" / "model.safetensors").keys()
    assert all(name.split(".")[0] in ("encoder", "predictor", "target_encoder") for name in names)
    assert not any("backbone" in name or "predictor_blocks" in name for name in names)
    again = JEPAModel.from_pretrained(tmp_path / "ours")
    assert same(model.state_dict(), again.state_dict())
    assert again.config.position_resize == "interpolate"


def test_shards(tmp_path: Path) -> None:
    model = tiny_model("vjepa2")
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same(JEPAModel.from_pretrained(tmp_path).state_dict(), model.state_dict())
    next(tmp_path.glob("model-00002*.safetensors")).unlink()
    with pytest.raises(OSError, match="model-00002"):
        JEPAModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("networks", [("target_encoder",), ("encoder", "predictor"), "encoder"])
def test_some_networks(networks: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("ijepa")
    model.save_pretrained(tmp_path)
    some = JEPAModel.from_pretrained(tmp_path, networks=networks)
    wanted = [networks] if isinstance(networks, str) else list(networks)
    assert some.config.networks == [name for name in ("encoder", "predictor", "target_encoder") if name in wanted]
    for name in ("encoder", "predictor", "target_encoder"):
        network = getattr(some, name)
        assert (network is not None) == (name in wanted)
        if network is not None:
            assert same(network.state_dict(), getattr(model, name).state_dict())
    assert "UNEXPECTED" not in capfd.readouterr().err
    with pytest.raises(ValueError, match="holds encoder, predictor, target_encoder"):
        JEPAModel.from_pretrained(tmp_path, networks=("decoder",))


def test_dtypes(tmp_path: Path) -> None:
    tiny_model("ijepa").to(torch.float16).save_pretrained(tmp_path)
    assert JEPAModel.from_pretrained(tmp_path).dtype == torch.float32  # without arguments
    assert JEPAModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.float16
    assert JEPAModel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_settings_and_arguments_reach_the_model(tmp_path: Path) -> None:
    tiny_model("vjepa").save_pretrained(tmp_path)
    model = JEPAModel.from_pretrained(
        tmp_path, attn_implementation="eager", position_resize="interpolate", device_map="cpu"
    )
    assert model.config._attn_implementation == "eager" and model.config.position_resize == "interpolate"
    assert model.encode(tiny_pixels("vjepa")).tokens.shape == (2, 64, 48)
    given = JEPAModel.from_pretrained(tmp_path, config=tiny_config("vjepa", networks=["encoder"]))
    assert given.config.networks == ["encoder"]


def test_numpy_scalars_are_read(tmp_path: Path) -> None:
    checkpoint = official_checkpoint("ijepa_tiny_p16")
    assert isinstance(checkpoint["lr"], np.float64)
    torch.save(checkpoint, tmp_path / "m.pth.tar")
    assert IJepaModel.from_pretrained(tmp_path / "m.pth.tar").config.num_attention_heads == 3


@pytest.mark.parametrize("position_noise_std", [0.1])
def test_flexpredict_reads_what_ijepa_reads(tmp_path: Path, position_noise_std: float) -> None:
    path = write_official(tmp_path / "m.pth.tar", "ijepa_tiny_p16")
    model = FlexPredictModel.from_pretrained(path, position_noise_std=position_noise_std)
    assert model.predictor.position_noise_std == position_noise_std
    assert JEPAModel.from_pretrained(path, family="flexpredict").config.model_type == "jepa_hub_flexpredict"


# ------------------------------------------------------------------------------------------ what must be refused


def test_what_tensors_cannot_tell_is_asked_for(tmp_path: Path) -> None:
    path = write_official(tmp_path / "m.pth.tar", "ijepa_tiny_p16")
    with pytest.raises(ValueError, match="family='ijepa' or family='flexpredict'"):
        JEPAModel.from_pretrained(path)
    with pytest.raises(ValueError, match="image checkpoint"):
        VJepa2Model.from_pretrained(path)
    with pytest.raises(ValueError, match="unknown family 'ijpea'"):
        JEPAModel.from_pretrained(path, family="ijpea")


def test_a_stored_table_is_vjepa2_only_with_ten_mask_tokens(tmp_path: Path) -> None:
    path = write_official(tmp_path / "m.pth.tar", "vjepa_tiny_p16")
    with pytest.raises(ValueError, match="ten mask tokens"):
        JEPAModel.from_pretrained(path, family="vjepa2")
    checkpoint = official_checkpoint("vjepa_tiny_p16")
    del checkpoint["predictor"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="give family="):
        JEPAModel.from_pretrained(path)
    assert JEPAModel.from_pretrained(path, family="vjepa").config.networks == ["encoder", "target_encoder"]

    checkpoint = official_checkpoint("vjepa_tiny_p16")
    token = checkpoint["predictor"]["module.backbone.mask_tokens.0"]
    checkpoint["predictor"] |= {f"module.backbone.mask_tokens.{index}": token for index in range(10)}
    torch.save(checkpoint, path)
    model = JEPAModel.from_pretrained(path)
    assert type(model) is VJepa2Model and model.config.position_type == "rotary_tiled"
    assert model.config.image_size is None and model.config.num_frames is None


def test_wrong_family(tmp_path: Path) -> None:
    tiny_model("vjepa").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds vjepa weights, not ijepa"):
        IJepaModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="IJepaModel loads ijepa weights"):
        IJepaModel.from_pretrained(tmp_path, family="vjepa")


def test_unknown_width_asks_for_heads(tmp_path: Path) -> None:
    model = tiny_model("vjepa2", predictor_num_attention_heads=12)
    model.save_official(tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"48 wide .* num_attention_heads="):
        JEPAModel.from_pretrained(tmp_path / "m.pt")
    again = JEPAModel.from_pretrained(tmp_path / "m.pt", num_attention_heads=2)
    assert same(again.state_dict(), model.state_dict())


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    tiny_model("ijepa").save_pretrained(tmp_path)
    edit_tensors(
        tmp_path,
        encoder__norm__bias=None,
        predictor__extra__weight=torch.zeros(3),
        target_encoder__blocks__0__mlp__fc1__weight=torch.zeros(5, 48),
    )
    with pytest.raises(ValueError) as caught:
        JEPAModel.from_pretrained(tmp_path)
    message = str(caught.value)
    assert "1 missing: encoder.norm.bias" in message and "1 unexpected: predictor.extra.weight" in message
    assert "target_encoder.blocks.0.mlp.fc1.weight is (5, 48), the configuration needs (96, 48)" in message
    # The damage lies in other networks: this one is whole.
    edit_tensors(tmp_path, encoder__norm__bias=torch.zeros(48))
    assert JEPAModel.from_pretrained(tmp_path, networks=("encoder",)).encoder is not None


@pytest.mark.parametrize("network", ["encoder", "predictor", "target_encoder"])
def test_official_files_are_loaded_whole_or_not_at_all(network: str, tmp_path: Path) -> None:
    checkpoint = official_checkpoint("vjepa_tiny_p16")
    prefix = "module.backbone."
    name = "predictor_norm.bias" if network == "predictor" else "blocks.1.attn.proj.bias"
    del checkpoint[network][prefix + name]
    checkpoint[network][prefix + "surprise.weight"] = torch.zeros(1)
    torch.save(checkpoint, tmp_path / "m.pth.tar")
    ours = f"{network}.{name.removeprefix('predictor_')}"
    with pytest.raises(ValueError, match=f"missing: {ours}; 1 unexpected: {network}.surprise.weight"):
        JEPAModel.from_pretrained(tmp_path / "m.pth.tar")


def test_a_table_of_no_known_formula_is_refused(tmp_path: Path) -> None:
    checkpoint = official_checkpoint("ijepa_tiny_p16")
    checkpoint["encoder"]["module.pos_embed"] = torch.randn(1, 36, 192)
    checkpoint["target_encoder"]["module.pos_embed"] = torch.randn(1, 36, 192)
    torch.save(checkpoint, tmp_path / "m.pth.tar")
    with pytest.raises(ValueError, match="none of the known sine-cosine formulas"):
        IJepaModel.from_pretrained(tmp_path / "m.pth.tar")
    checkpoint = official_checkpoint("physics_rope_tiny")
    checkpoint["encoder"]["module.backbone.blocks.0.attn.d_rotary_emb.freqs"] *= 2
    torch.save(checkpoint, tmp_path / "m.pth.tar")
    with pytest.raises(ValueError, match="does not hold the rotary frequencies"):
        JEPAModel.from_pretrained(tmp_path / "m.pth.tar")


class Harmful:
    """What a hostile file would do when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_that_needs_code_is_refused(tmp_path: Path) -> None:
    checkpoint = {**official_checkpoint("ijepa_tiny_p16"), "extra": Harmful(tmp_path / "harm")}
    torch.save(checkpoint, tmp_path / "m.pth.tar")
    with pytest.raises(OSError, match="could run its code; it was refused"):
        IJepaModel.from_pretrained(tmp_path / "m.pth.tar")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    with pytest.raises(OSError, match=r"refused|torn"):
        IJepaModel.from_pretrained(tmp_path / "old.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_torn_official_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pth.tar").write_bytes(content)
    with pytest.raises(OSError, match=r"m\.pth\.tar"):
        JEPAModel.from_pretrained(tmp_path / "m.pth.tar")
    whole = write_official(tmp_path / "whole.pth.tar", "vjepa_tiny_p16").read_bytes()
    (tmp_path / "m.pth.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="torn"):
        JEPAModel.from_pretrained(tmp_path / "m.pth.tar")


def test_torn_safetensors_and_configs(tmp_path: Path) -> None:
    tiny_model("ijepa").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(OSError, match="torn"):
        JEPAModel.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match=r"no model\.safetensors"):
        JEPAModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(OSError, match="not readable JSON"):
        JEPAModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="type 'bert'"):
        JEPAModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(OSError, match=r"no config\.json"):
        JEPAModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"state": 1}, "is this a JEPA checkpoint"),
        ({"encoder": {"module.conv.weight": torch.zeros(1)}}, "not a JEPA encoder"),
        ({"classifier": {}}, "Probe.from_pretrained"),
        ({"classifiers": [{}]}, "Probe.from_pretrained"),
        ({"encoder": {}, "predictor": {"module.action_encoder.weight": torch.zeros(1)}}, "V-JEPA 2-AC"),
        ([1, 2], "holds list"),
    ],
)
def test_other_checkpoints(checkpoint: Any, message: str, tmp_path: Path) -> None:
    torch.save(checkpoint, tmp_path / "m.pt")
    with pytest.raises((ValueError, OSError), match=message):
        JEPAModel.from_pretrained(tmp_path / "m.pt")


@pytest.mark.parametrize("name", ["vjepa2-ac-vitg", "vjepa2.1-vitl-384", "vjepa2-ac-vitg.pt"])
def test_unsupported_weights_say_why(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.endswith(".pt"):
        monkeypatch.chdir(tmp_path)
        torch.save({}, name)
    with pytest.raises(ValueError, match=r"not supported: .{20}"):
        JEPAModel.from_pretrained(name)


@pytest.mark.parametrize("name", ["./nowhere", "nowhere.pth.tar", "vjepa-vitl61", "a/b/c"])
def test_nothing_there(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="neither a file"):
        JEPAModel.from_pretrained(name)
    if name == "vjepa-vitl61":
        with pytest.raises(FileNotFoundError, match="vjepa-vitl16"):
            JEPAModel.from_pretrained(name)


def test_misspelt_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'hidden_size'"):
        IJepaConfig(hiden_size=3)
    with pytest.raises(ValueError, match="position_type is one of"):
        IJepaConfig(position_type="sinus")
    tiny_model("ijepa").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="did you mean 'networks'"):
        JEPAModel.from_pretrained(tmp_path, network=("encoder",))
    with pytest.raises(ValueError, match="did you mean 'position_resize'"):
        JEPAModel.from_pretrained(tmp_path, position_rezise="recompute")


def test_unknown_keys_of_a_stored_config(tmp_path: Path) -> None:
    tiny_model("ijepa").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "new_trick": 1}))
    with pytest.raises(ValueError, match="no setting 'new_trick'"):
        JEPAModel.from_pretrained(tmp_path)
    path.write_text(json.dumps({**stored, "new_trick": 1, "library_version": "99.0"}))
    with pytest.warns(UserWarning, match=r"written by jepa_hub 99\.0.*new_trick"):
        assert JEPAModel.from_pretrained(tmp_path).config.hidden_size == 48


def test_sizes() -> None:
    assert IJepaConfig.of_size("vit_giant").num_attention_heads == 16
    config = VJepa2Model.config_class.of_size("vit_giant")
    assert config.num_attention_heads == 22 and config.intermediate_size == 6144
    with pytest.raises(ValueError, match="unknown size 'vit_mega'"):
        IJepaConfig.of_size("vit_mega")


@pytest.mark.parametrize(
    ("family", "settings", "millions"),
    [
        ("ijepa", {"size": "vit_base", "patch_size": 16}, 85.65),
        ("ijepa", {"size": "vit_huge", "patch_size": 14}, 630.43),
        ("ijepa", {"size": "vit_giant", "patch_size": 16}, 1011.09),
        ("vjepa", {"size": "vit_large"}, 303.89),
        ("vjepa2", {"size": "vit_huge"}, 631.65),
        ("vjepa2", {"size": "vit_giant"}, 1012.17),
    ],
)
def test_published_parameter_counts(family: str, settings: dict[str, Any], millions: float) -> None:
    config = model_class(family).config_class.of_size(**settings, networks=["encoder"])
    with torch.device("meta"):
        model = model_class(family)(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
