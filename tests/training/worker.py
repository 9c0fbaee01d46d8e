"""Training in processes that can be killed; a fork server that has imported everything makes a start cheap."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.worker", "training.loop", "training.recipe", "jepa_hub.models.mae"])


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}  # what `accelerate launch --use_fsdp --fsdp_version 2 ...` of docs/train.md tells its workers


def prepared(tree: dict[str, Any], environ: dict[str, str] | None = None) -> Any:
    """The run of the recipe `tree`, with the source `patterns` known."""
    os.environ |= {"JEPA_HUB_NO_PROGRESS": "1", "ACCELERATE_USE_CPU": "true", **(environ or {})}
    import torch

    from training.data import registry
    from training.loop import Run
    from training.recipe import check_settings

    torch.set_num_threads(1)
    registry.SOURCES["patterns"] = "tests.training.patterns:Patterns"
    return Run(check_settings(tree, "test"))


def train(tree: dict[str, Any], environ: dict[str, str] | None = None) -> None:
    """Train the recipe `tree` to its end."""
    run = prepared(tree, environ)
    run.train()
    run.close()
    assert gloo_threads() == 0


def train_sharded(tree: dict[str, Any], environ: dict[str, str]) -> None:
    """As `train`, with FSDP2; fails unless every weight is shared out."""
    if environ["ACCELERATE_USE_CPU"] == "true":
        _shard_on_cpu()
    run = prepared(tree, {**environ, **FSDP2})
    from torch.distributed.tensor import DTensor

    weights = dict(run.bare_method.named_parameters())
    whole = [name for name, weight in weights.items() if not isinstance(weight, DTensor)]
    assert weights and not whole, whole
    run.train()  # meshes are cached by torch, with the group: its threads last as long as Python
    run.close()


def _shard_on_cpu() -> None:
    """Torch shares out weights over gloo as over NCCL; Accelerate asks for it on GPUs only."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def sharding(self: Any, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        begin(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = sharding  # type: ignore[method-assign]


def gloo_threads() -> int:
    """Threads of this process that carry out collectives over gloo; 0 where /proc does not tell."""
    tasks = Path("/proc/self/task")
    names = [task.joinpath("comm").read_text().strip() for task in tasks.iterdir()] if tasks.is_dir() else []
    return names.count("pt_gloo_runloop")


def train_and_tell(tree: dict[str, Any], environ: dict[str, str], told: str) -> None:
    """As `train`; an error goes into the file `told` as it would be shown to a user, with exit status 1."""
    from training.train import expected_errors

    try:
        train(tree, environ)
    except expected_errors() as error:
        Path(told).write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        os._exit(1)  # as after an error in a script: threads that wait for others do not keep the process


def start(tree: dict[str, Any], environ: dict[str, str] | None = None) -> Any:
    """A process that trains."""
    process = CONTEXT.Process(target=train, args=(tree, environ))
    process.start()
    return process


def shared_environ(world: int) -> list[dict[str, str]]:
    """What torchrun tells each of `world` workers on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    shared |= {"LOCAL_WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def start_workers(tree: dict[str, Any], world: int) -> list[Any]:
    """Processes that train together over gloo."""
    return [start(tree, environ) for environ in shared_environ(world)]


def start_sharded(tree: dict[str, Any], world: int, **changes: str) -> list[Any]:
    """Processes that train together and share out the weights by FSDP2; `changes` of their environment."""
    processes = [CONTEXT.Process(target=train_sharded, args=(tree, each | changes)) for each in shared_environ(world)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[Any], seconds: float = 120) -> None:
    """Wait for processes; a failed or late one fails the test."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * len(processes), codes
