"""FSDP2 shares out weights, and trains as DDP does: on CPU workers everywhere, on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_hub.models.base import JEPAModel
from tests.training.patterns import recipe
from tests.training.test_survival import difference, losses
from tests.training.worker import (
    CONTEXT,
    FSDP2,
    finish,
    shared_environ,
    start,
    start_sharded,
    start_workers,
    train_and_tell,
)
from training import checkpoints

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = {"ACCELERATE_USE_CPU": "false", "NVIDIA_TF32_OVERRIDE": "0"}  # float32 products as they are written
CHANGES: dict[str, Any] = {"run__steps": 10, "run__log_every": 1, "run__save_every": 5, "optim__clip_norm": 0.5}


def test_two_workers_that_share_weights_train_as_two_that_do_not(tmp_path: Path) -> None:
    changes = {**CHANGES, "data__batch_size": 4, "run__precision": "fp64"}
    finish(start_workers(recipe(tmp_path / "ddp", **changes), 2))
    finish(start_sharded(recipe(tmp_path / "fsdp2", **changes), 2))
    assert difference(tmp_path / "ddp", tmp_path / "fsdp2") < 1e-8
    assert losses(tmp_path / "fsdp2") == pytest.approx(losses(tmp_path / "ddp"), abs=1e-8)
    assert JEPAModel.from_pretrained(tmp_path / "fsdp2" / "final").config.hidden_size == 32  # whole, as users load it


def test_workers_that_share_weights_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    changes = {**CHANGES, "data__batch_size": 4, "run__precision": "fp64"}
    finish(start_sharded(recipe(tmp_path / "whole", **changes), 2))
    finish(start_sharded(recipe(tmp_path / "halved", **changes), 2))
    newest = checkpoints.newest(tmp_path / "halved" / "checkpoints")
    assert newest is not None and newest.step == 10
    for path in (newest.path, tmp_path / "halved" / "final"):
        path.rename(tmp_path / path.name)  # so that step 5 is the newest
    finish(start_sharded(recipe(tmp_path / "halved", **changes), 2))
    assert difference(tmp_path / "whole", tmp_path / "halved") < 1e-12
    assert losses(tmp_path / "halved") == losses(tmp_path / "whole")


def test_sharding_that_would_not_happen_is_refused(tmp_path: Path) -> None:
    told = tmp_path / "told"
    environ = {**shared_environ(1)[0], **FSDP2}
    process = CONTEXT.Process(target=train_and_tell, args=(recipe(tmp_path / "run"), environ, str(told)))
    process.start()
    process.join(120)
    assert process.exitcode == 1
    assert "FSDP is asked for, but this run is" in told.read_text()


@needs_cuda
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 2e-3)])
def test_shared_out_weights_train_alike_on_a_gpu(tmp_path: Path, precision: str, tolerance: float) -> None:
    changes = {**CHANGES, "run__precision": precision}
    finish([start(recipe(tmp_path / "plain", **changes), CUDA)])
    finish(start_sharded(recipe(tmp_path / "fsdp2", **changes), 1, **CUDA))
    assert difference(tmp_path / "plain", tmp_path / "fsdp2") < tolerance
    assert losses(tmp_path / "fsdp2") == pytest.approx(losses(tmp_path / "plain"), abs=tolerance)


@needs_cuda
@pytest.mark.parametrize("change", ["compile", "activation_checkpointing"])
def test_a_gpu_trains_alike_compiled_and_recomputed(tmp_path: Path, change: str) -> None:
    changes = {**CHANGES, "run__precision": "fp32"}
    finish([start(recipe(tmp_path / "plain", **changes), CUDA)])
    finish([start(recipe(tmp_path / "changed", **changes, **{f"run__{change}": True}), CUDA)], seconds=300)
    assert difference(tmp_path / "plain", tmp_path / "changed") < 1e-5


@needs_cuda
def test_a_gpu_trains_as_the_cpu_does(tmp_path: Path) -> None:
    finish([start(recipe(tmp_path / "cpu", **CHANGES))])
    finish([start(recipe(tmp_path / "gpu", **CHANGES), CUDA)])
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), abs=1e-4)
