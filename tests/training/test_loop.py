"""The loop: it learns, logs, saves, resumes to the bit, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jepa_hub.models.base import JEPAModel
from tests.training.conftest import fresh_accelerate
from training import checkpoints
from training.config import Settings
from training.data.batches import BadDataError
from training.loop import Run
from training.watch import CollapsedError, DivergedError

SettingsOf = Callable[..., Settings]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_run_leaves_a_model_a_log_and_checkpoints(settings_of: SettingsOf, tmp_path: Path) -> None:
    final = Run(settings_of()).train()
    model = JEPAModel.from_pretrained(final)
    assert model.config.networks == ["encoder", "predictor", "target_encoder"] and model.config.licence == "apache-2.0"
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert {"loss", "target_std", "cosine", "rank", "lr", "samples_per_second", "wait_share"} <= set(entries[0])
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000006"]
    card = (final / "README.md").read_text()
    assert "license: apache-2.0" in card and "multi_block_2d" in card and "6 steps of 8 samples" in card
    # The target followed the encoder without being it.
    named = dict(model.named_parameters())
    weight = "blocks.0.attn.qkv.weight"
    assert not torch.equal(named[f"encoder.{weight}"], named[f"target_encoder.{weight}"])


@pytest.mark.parametrize(("family", "method", "masks"), [("mae", "mae", "random"), ("flexpredict", "jepa", None)])
def test_other_families_train_with_the_same_loop(
    family: str, method: str, masks: str | None, settings_of: SettingsOf
) -> None:
    changes: dict[str, Any] = {"model__name": family, "method": {"name": method}}
    if masks:
        changes["masks"] = {"name": masks, "ratio": 0.75}
    run = Run(settings_of(**changes))
    run.train()
    assert run.metrics["loss"] > 0


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(settings_of: SettingsOf, tmp_path: Path) -> None:
    whole = weights(Run(settings_of()).train())
    log = (tmp_path / "run" / "log.jsonl").read_text()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")  # as killed while it was written
    (tmp_path / "run" / "checkpoints" / "step-00000006.unfinished").mkdir()
    again = Run(settings_of())
    assert again.step == 4
    resumed = weights(again.train())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole) and whole.keys() == resumed.keys()
    timeless = [{key: json.loads(line)[key] for key in ("step", "loss", "rank")} for line in log.splitlines()]
    entries = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [{key: json.loads(line)[key] for key in ("step", "loss", "rank")} for line in entries] == timeless


def test_a_torn_checkpoint_is_skipped(
    settings_of: SettingsOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    final = Run(settings_of()).train()
    before = weights(final)
    root = tmp_path / "run" / "checkpoints"
    torn = root / "step-00000006" / "optimizer.bin"
    torn.write_bytes(torn.read_bytes()[:100])
    again = Run(settings_of())
    assert again.step == 4 and "torn" in caplog.text
    after = weights(again.train())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_of_another_recipe_is_refused(settings_of: SettingsOf) -> None:
    Run(settings_of()).train()
    with pytest.raises(checkpoints.CheckpointError, match=r"optim\.lr was 0\.001, is 0\.01"):
        Run(settings_of(optim__lr=1e-2))
    with pytest.raises(checkpoints.CheckpointError, match="8 samples per step, these workers take 16"):
        Run(settings_of(data__batch_size=16))
    Run(settings_of(data__batch_size=4, run__accumulation=2))  # the same samples in every step


def test_accumulation_equals_one_large_batch(settings_of: SettingsOf, tmp_path: Path) -> None:
    large = Run(settings_of(out=tmp_path / "a", run__precision="fp64")).train()
    small = Run(settings_of(out=tmp_path / "b", run__precision="fp64", data__batch_size=4, run__accumulation=2)).train()
    mine, theirs = weights(large), weights(small)
    assert max((mine[name] - theirs[name]).abs().max().item() for name in mine) < 1e-8


def test_a_full_disk_loses_nothing(settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(settings_of(run__steps=2))
    run.train()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.accelerator, "save_state", full)
    run.step = 4
    with pytest.raises(checkpoints.CheckpointError, match="No space left on device"):
        run.save()
    root = tmp_path / "run" / "checkpoints"
    assert [path.name for path in root.iterdir()] == ["step-00000002"]


def test_a_one_encoder_checkpoint_starts_with_a_real_copy(settings_of: SettingsOf, tmp_path: Path) -> None:
    from tests.official import tiny_model

    tiny_model("ijepa", networks=["encoder", "predictor"]).save_pretrained(tmp_path / "start")
    settings = settings_of(model={"name": "ijepa", "checkpoint": str(tmp_path / "start")})
    run = Run(settings)
    start = {name: value.clone() for name, value in run.bare_method.model.state_dict().items()}
    final = weights(run.train())
    weight = "blocks.0.mlp.fc1.weight"
    assert torch.equal(start[f"encoder.{weight}"], start[f"target_encoder.{weight}"])
    assert not torch.equal(final[f"encoder.{weight}"], final[f"target_encoder.{weight}"])
    assert not torch.equal(final[f"encoder.{weight}"], start[f"encoder.{weight}"])
    assert not torch.equal(final[f"target_encoder.{weight}"], start[f"target_encoder.{weight}"])


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(settings_of: SettingsOf, tmp_path: Path) -> None:
    run = Run(settings_of(run__log_every=100))
    plain = run.bare_method.forward

    def broken(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        metrics = plain(batch)
        return {**metrics, "loss": metrics["loss"] * float("nan")} if run.step == 2 else metrics

    run.bare_method.forward = broken  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="the loss at step 3 is not finite"):
        run.train()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]


def test_collapsed_features_stop_the_run_in_words(settings_of: SettingsOf) -> None:
    watch = {"collapse": "stop", "min_std": 1e9, "patience": 2}
    with pytest.raises(CollapsedError, match=r"features have collapsed: spread .* at steps 2, 4"):
        Run(settings_of(watch=watch)).train()


def test_unreadable_samples_are_replaced_named_and_counted(
    settings_of: SettingsOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = {"name": "patterns", "broken": [3]}
    run = Run(settings_of(data__source=source, run__steps=8))
    run.train()
    assert "pattern 3: broken for the test" in caplog.text
    with pytest.raises(BadDataError, match=r"more than data\.max_bad=0 allows; among them: pattern"):
        source = {"name": "patterns", "broken": list(range(24))}
        Run(settings_of(data__source=source, data__max_bad=0, out=tmp_path / "other")).train()


@pytest.mark.parametrize("change", [{"run__precision": "bf16"}, {"run__activation_checkpointing": True}])
def test_bf16_and_activation_checkpointing_stay_near_the_plain_run(
    change: dict[str, Any], settings_of: SettingsOf, tmp_path: Path
) -> None:
    mine = weights(Run(settings_of(out=tmp_path / "a")).train())
    fresh_accelerate()  # its precision is set once per process
    theirs = weights(Run(settings_of(out=tmp_path / "b", **change)).train())
    bound = 2e-2 if "run__precision" in change else 1e-6
    assert max((mine[name] - theirs[name]).abs().max().item() for name in mine) < bound
    assert all(value.dtype == torch.float32 for value in theirs.values())


@pytest.mark.slow
def test_compiled_blocks_stay_near_the_plain_run(settings_of: SettingsOf, tmp_path: Path) -> None:
    plain, other = Run(settings_of(out=tmp_path / "a")), Run(settings_of(out=tmp_path / "b", run__compile=True))
    mine, theirs = weights(plain.train()), weights(other.train())
    assert mine.keys() == theirs.keys()
    assert max((mine[name] - theirs[name]).abs().max().item() for name in mine) < 1e-5


def test_workers_of_the_loader_change_nothing(settings_of: SettingsOf, tmp_path: Path) -> None:
    mine = weights(Run(settings_of(out=tmp_path / "a")).train())
    theirs = weights(Run(settings_of(out=tmp_path / "b", data__workers=2)).train())
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_online_probe_chooses_the_best_model(settings_of: SettingsOf, tmp_path: Path) -> None:
    probe = {"every": 2, "kind": "linear", "label": "angle", "num_train": 40, "num_test": 12}
    run = Run(settings_of(probe=probe, data__source={"name": "patterns", "num_samples": 400}))
    run.train()
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = {entry["step"]: entry["probe_angle"] for entry in entries if "probe_angle" in entry}
    assert sorted(scores) == [2, 4, 6] and all(0 <= score <= 1 for score in scores.values())
    assert run.probe is not None and run.probe.best == max(scores.values())
    best = json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())
    assert best["probe_angle"] == run.probe.best
    assert JEPAModel.from_pretrained(tmp_path / "run" / "best").config.hidden_size == 32
    fresh_accelerate()
    again = Run(settings_of(probe=probe, data__source={"name": "patterns", "num_samples": 400})).probe
    assert again is not None and again.best == run.probe.best
    with pytest.raises(ValueError, match=r"probe\.label is 'angel'; the source has angle, phase"):
        Run(settings_of(probe={**probe, "label": "angel"}, out=tmp_path / "other"))


def test_a_checkpoint_that_does_not_fit_is_refused_and_longer_clips_are_not(
    settings_of: SettingsOf, tmp_path: Path
) -> None:
    from tests.official import tiny_model

    tiny_model("vjepa2").save_pretrained(tmp_path / "start")
    start = {"name": "vjepa2", "checkpoint": str(tmp_path / "start")}
    masks = {"name": "future", "context_frames": 4}
    clips = {"name": "patterns", "frames": 16}
    longer = Run(settings_of(model={**start, "num_frames": 16, "image_size": 32}, masks=masks, data__source=clips))
    assert longer.bare_method.model.config.num_frames == 16 and longer.train().is_dir()
    for change, said in (
        ({"size": "vit_tiny"}, "hidden_size: the recipe says 192, the checkpoint 48"),
        ({"patch_size": 16}, "patch"),
    ):
        with pytest.raises(ValueError, match=said):
            Run(settings_of(model={**start, **change}, masks=masks, data__source=clips, out=tmp_path / "other"))
    with pytest.raises(ValueError, match="of the family vjepa2, the recipe says vjepa"):
        Run(settings_of(model={**start, "name": "vjepa"}, masks=masks, data__source=clips, out=tmp_path / "other"))


def test_trackers_get_what_the_log_gets(settings_of: SettingsOf, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Run(settings_of(run__trackers=["tensorboard"])).train()
    events = EventAccumulator(str(next((tmp_path / "run").rglob("events.out.tfevents.*")).parent))
    events.Reload()
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    seen = {event.step: event.value for event in events.Scalars("loss")}
    assert seen == pytest.approx({entry["step"]: entry["loss"] for entry in entries})
