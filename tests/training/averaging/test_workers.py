"""Four gloo workers train a recipe with every averager; killed and resumed; a lost worker is told in words."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jepa_hub.models.base import JEPAModel
from tests.training.patterns import recipe
from tests.training.worker import CONTEXT, finish, shared_environ, start_workers, train_and_tell
from training import checkpoints
from training.averaging.base import lost_worker
from training.averaging.registry import AVERAGERS
from training.config import Settings
from training.loop import Run

WORLD = 4
OWN: dict[str, dict[str, Any]] = {
    "all_reduce": {},
    "local_sgd": {"every": 4, "optimizer_state": True},
    "push_sum": {"staleness": 1},
    "async_gossip": {},
    "delayed": {},
}


def tree_of(out: Path, name: str, **changes: Any) -> dict[str, Any]:
    """The tiny recipe for four workers."""
    timeout = changes.pop("timeout", 60)
    averaging = {"name": name, "timeout": timeout, **OWN[name], **changes.pop("averaging", {})}
    return recipe(out, data__batch_size=2, averaging=averaging, **changes)


def entries(out: Path) -> list[dict[str, Any]]:
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def final(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def states(out: Path, step: int) -> list[dict[str, Any]]:
    folder = out / "checkpoints" / f"step-{step:08d}"
    return [torch.load(folder / f"averager_{rank}.pt", weights_only=True) for rank in range(WORLD)]


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """An uninterrupted run of each averager, made when it is first asked for."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "run"
            finish(start_workers(tree_of(made[name], name), WORLD))
        return made[name]

    return run


@pytest.mark.parametrize("name", OWN)
def test_four_workers_train_a_recipe(name: str, whole: Callable[[str], Path]) -> None:
    out = whole(name)
    log = entries(out)
    assert [entry["step"] for entry in log] == [2, 4, 6]
    assert log[-1]["loss"] < log[0]["loss"]
    model = JEPAModel.from_pretrained(out / "final")
    assert model.config.networks == ["encoder", "predictor", "target_encoder"]
    # What is saved is what the workers agree on: near all-reduce after so few steps, and not what they began with.
    assert far(final(out), final(whole("all_reduce"))) < 6e-3
    if name == "all_reduce":
        return
    saved = states(out, 6)
    mean = torch.stack([each["weights"] for each in saved]).mean(0)
    apart = (torch.stack([each["weights"] for each in saved]) - mean).abs().max().item()
    assert 0 < apart < 1e-2 and log[-1]["disagreement"] > 0
    # Each worker keeps its own optimizer's state, but for the server's.
    moments = [each["optimizer"]["state"].get(0, {}).get("exp_avg") for each in saved]
    kept = {json.dumps(each.tolist()) for each in moments if each is not None}
    assert len(kept) == (0 if name == "delayed" else WORLD)


@pytest.mark.parametrize(
    "name",
    ["push_sum", "delayed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("local_sgd", "async_gossip"))],
)
def test_a_killed_run_goes_on(name: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = start_workers(tree_of(out, name, run__save_every=1, run__keep_last=9), WORLD)
    while not (out / "checkpoints" / "step-00000003").is_dir():
        assert all(process.is_alive() for process in processes)
        time.sleep(0.005)
    for process in processes:
        process.kill()
        process.join()
    for folder in (out / "checkpoints").glob("step-0000000[456]"):
        (folder / checkpoints.MARK).unlink()  # as if killed right after step 3, wherever the kill came
    finish(start_workers(tree_of(out, name), WORLD))
    assert [entry["step"] for entry in entries(out)] == [2, 4, 6]
    if name in ("local_sgd", "push_sum"):  # functions of the seed: each worker ends with the same bits
        for mine, theirs in zip(states(out, 6), states(whole(name), 6), strict=True):
            assert torch.allclose(mine["weights"], theirs["weights"], atol=1e-6)
            assert torch.equal(mine["weights"], theirs["weights"]) or name == "local_sgd"
    assert far(final(out), final(whole(name))) < (1e-6 if name in ("local_sgd", "push_sum") else 6e-3)


def test_messages_under_way_are_saved(whole: Callable[[str], Path]) -> None:
    saved = [each["own"] for each in states(whole("push_sum"), 6)]
    assert all(len(each["pending"]) == 1 and len(each["pending"][0]["boxes"]) == 1 for each in saved)
    weight = sum(each["mass"][-1] + each["pending"][0]["boxes"][0][-1] for each in saved)
    assert float(weight) == pytest.approx(WORLD, abs=1e-6)
    server = states(whole("delayed"), 6)[0]["own"]["server"]
    assert server["version"] == 6 * WORLD


@pytest.mark.slow
def test_a_run_that_has_ended_ends_the_same_again(whole: Callable[[str], Path]) -> None:
    for name in ("async_gossip", "delayed"):  # their order of messages is the network's, what they keep is not
        out = whole(name)
        before = final(out)
        finish(start_workers(tree_of(out, name), WORLD))
        assert far(before, final(out)) < 1e-6


def test_saving_more_often_changes_nothing(whole: Callable[[str], Path], tmp_path: Path) -> None:
    finish(start_workers(tree_of(tmp_path / "run", "push_sum", run__save_every=6, run__log_every=3), WORLD))
    for mine, theirs in zip(states(tmp_path / "run", 6), states(whole("push_sum"), 6), strict=True):
        assert torch.equal(mine["weights"], theirs["weights"])


def test_another_number_of_workers_is_refused(whole: Callable[[str], Path], tmp_path: Path) -> None:
    out, told = whole("push_sum"), tmp_path / "told"
    tree = tree_of(out, "push_sum", run__steps=6)
    tree["data"]["batch_size"] = 4
    processes = [
        CONTEXT.Process(target=train_and_tell, args=(tree, environ, f"{told}{rank}"))
        for rank, environ in enumerate(shared_environ(2))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 1
    assert "the checkpoint was made by 4 workers, now there are 2" in Path(f"{told}1").read_text()


@pytest.mark.parametrize(
    ("name", "blow"),
    [
        ("push_sum", signal.SIGKILL),
        ("push_sum", signal.SIGSTOP),
        pytest.param("async_gossip", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("all_reduce", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("all_reduce", signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param("local_sgd", signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param("async_gossip", signal.SIGSTOP, marks=pytest.mark.slow),
        ("delayed", signal.SIGKILL),
        pytest.param("delayed", signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_a_lost_worker_stops_the_others_in_bounded_time(name: str, blow: int, tmp_path: Path) -> None:
    out, limit = tmp_path / "run", 3
    tree = tree_of(out, name, timeout=limit, run__steps=100000, run__save_every=100000, run__log_every=5)
    processes = [
        CONTEXT.Process(target=train_and_tell, args=(tree, environ, str(tmp_path / f"told{rank}")))
        for rank, environ in enumerate(shared_environ(WORLD))
    ]
    for process in processes:
        process.start()
    while len(entries(out)) < 2:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.02)
    os.kill(int(processes[2].pid or 0), blow)
    begin = time.monotonic()
    left = [process for rank, process in enumerate(processes) if rank != 2]
    for process in left:
        process.join(60)
    took = time.monotonic() - begin
    codes = [process.exitcode for process in left]
    for process in processes:
        process.kill()
        process.join()
    assert codes == [1, 1, 1]
    assert took < 10 * limit  # the limit, then each of the others notices the next
    said = [(tmp_path / f"told{rank}").read_text() for rank in (0, 1, 3)]
    assert all(
        text.startswith("WorkerLostError") and "resumes from the newest whole checkpoint" in text for text in said
    )


def test_one_worker_alone_trains_the_same_with_every_averager(
    settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    ends = {}
    for name in AVERAGERS:
        own = {**OWN[name], **({"topology": {"name": "exponential"}} if name == "async_gossip" else {})}
        run = Run(settings_of(out=tmp_path / name, averaging={"name": name, **own}))
        ends[name] = load_file(run.train() / "model.safetensors")
    assert all(far(ends["all_reduce"], each) < 1e-5 for each in ends.values())


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"name": "push_sum", "stalenes": 1}, "unknown setting averaging.stalenes \\(did you mean 'staleness'"),
        ({"name": "push_sums"}, "did you mean 'push_sum'"),
        (
            {"name": "push_sum", "topology": {"name": "star"}},
            r"averaging\.topology\.name: Input should be 'exponential'",
        ),
        ({"name": "push_sum", "topology": {"name": "file"}}, "path belongs to the topology named file"),
        ({"name": "local_sgd", "every": 0}, r"averaging\.every"),
        ({"name": "delayed", "step_size": "adaptive"}, r"averaging\.step_size: Input should be 'fixed'"),
    ],
)
def test_wrong_settings_are_told_in_words(own: dict[str, Any], said: str, settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(ValueError, match=said):
        settings_of(averaging=own)


@pytest.mark.slow
def test_gradients_can_be_compressed(whole: Callable[[str], Path], tmp_path: Path) -> None:
    plain = whole("all_reduce")
    for compression in ("fp16", "power_sgd"):
        out = tmp_path / compression
        finish(start_workers(tree_of(out, "all_reduce", averaging={"compression": compression}), WORLD))
        assert entries(out)[-1]["loss"] == pytest.approx(entries(plain)[-1]["loss"], abs=1e-3)
        # Half precision changes the weights; PowerSGD begins after 1,000 steps.
        gap = far(final(out), final(plain))
        assert gap > 1e-5 if compression == "fp16" else gap < 1e-6


def test_only_errors_of_the_network_count_as_lost_workers() -> None:
    gloo = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1")
    found = lost_worker(gloo, "after step 7")
    assert found is not None and "after step 7" in str(found) and "Connection closed by peer" in str(found)
    assert lost_worker(RuntimeError("size mismatch for weight"), "") is None
    assert lost_worker(ValueError("timeout must be positive"), "") is None
