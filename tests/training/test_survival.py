"""What a run survives: kill -9 at any moment, and other workers; two workers equal one with twice the batch."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.patterns import recipe
from tests.training.worker import CONTEXT, finish, start, start_workers
from training import checkpoints


def final(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def difference(first: Path, second: Path) -> float:
    mine, theirs = final(first), final(second)
    assert mine.keys() == theirs.keys()
    return max((mine[name].double() - theirs[name].double()).abs().max().item() for name in mine)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def run_through_kills(tree: dict[str, Any], moments: list[float]) -> int:
    """Train, killing every process after each of `moments` seconds, until it ends by itself; the kills that hit."""
    hits = 0
    for moment in moments:
        processes = [start(tree)]
        deadline = time.monotonic() + moment
        while time.monotonic() < deadline and any(process.is_alive() for process in processes):
            time.sleep(0.002)
        hits += any(process.is_alive() for process in processes)
        for process in processes:
            process.kill()
            process.join()
    finish([start(tree)])
    return hits


def seconds_of(tree: dict[str, Any]) -> float:
    first = CONTEXT.Process(target=int)  # the server imports everything at its first process: not part of a run
    first.start()
    first.join()
    begin = time.monotonic()
    finish([start(tree)])
    return time.monotonic() - begin


def run_and_kill_at(tree: dict[str, Any], step: int, workers: int) -> None:
    """Train until `step` is saved, kill every process, and train again to the end."""

    def begin() -> list[Any]:
        return start_workers(tree, workers) if workers > 1 else [start(tree)]

    processes = begin()
    root = Path(tree["run"]["out"]) / "checkpoints"
    deadline = time.monotonic() + 120
    while (found := checkpoints.newest(root)) is None or found.step < step:
        assert time.monotonic() < deadline and all(process.is_alive() for process in processes)
        time.sleep(0.002)
    for process in processes:
        process.kill()
        process.join()
    assert not (root.parent / "final").exists()  # it was under way
    finish(begin())


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"run__steps": 40, "run__save_every": 1, "run__log_every": 1}
    finish([start(recipe(tmp_path / "whole", **changes))])
    run_and_kill_at(recipe(tmp_path / "killed", **changes), step=5, workers=1)
    assert difference(tmp_path / "whole", tmp_path / "killed") == 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


@pytest.mark.slow
def test_twenty_kills_end_with_the_same_weights(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"run__steps": 60, "run__save_every": 1, "run__log_every": 1}
    whole = seconds_of(recipe(tmp_path / "whole", **changes))
    moments = [random.Random(100 + index).uniform(0.1, 0.9) * whole for index in range(20)]
    assert run_through_kills(recipe(tmp_path / "killed", **changes), moments) >= 1
    assert difference(tmp_path / "whole", tmp_path / "killed") == 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")
    assert not list((tmp_path / "killed" / "checkpoints").glob(f"*{checkpoints.UNFINISHED}"))


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "checkpoints"

    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"x" * 100)

    checkpoints.write(root, 1, fill, {"step_size": 8}, is_main=True, wait=lambda: None)

    class Killed(BaseException):
        pass

    def dies(folder: Path, *_: Any) -> None:
        (folder / "weights").write_bytes(b"x" * 50)
        raise Killed

    with pytest.raises(Killed):
        checkpoints.write(root, 2, dies, {"step_size": 8}, is_main=True, wait=lambda: None)
    monkeypatch.setattr(checkpoints, "_seal", dies)
    with pytest.raises(Killed):
        checkpoints.write(root, 3, fill, {"step_size": 8}, is_main=True, wait=lambda: None)
    found = checkpoints.newest(root)
    assert found is not None and found.step == 1


def test_two_workers_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    precise: dict[str, Any] = {"run__precision": "fp64", "run__steps": 10, "run__log_every": 1}
    finish([start(recipe(tmp_path / "one", data__batch_size=8, **precise))])
    finish(start_workers(recipe(tmp_path / "two", data__batch_size=4, **precise), 2))
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-8
    plain: dict[str, Any] = {"run__steps": 10, "run__log_every": 1}
    finish([start(recipe(tmp_path / "one32", data__batch_size=8, **plain))])
    finish(start_workers(recipe(tmp_path / "two32", data__batch_size=4, **plain), 2))
    pairs = zip(losses(tmp_path / "one32"), losses(tmp_path / "two32"), strict=True)
    assert max(abs(one - two) for one, two in pairs) < 1e-5


def test_two_killed_workers_resume_within_tolerance(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"data__batch_size": 4, "run__steps": 20, "run__save_every": 1}
    finish(start_workers(recipe(tmp_path / "whole", **changes), 2))
    run_and_kill_at(recipe(tmp_path / "killed", **changes), step=5, workers=2)
    assert difference(tmp_path / "whole", tmp_path / "killed") < 1e-6  # gloo may add in another order


def test_a_run_of_two_workers_goes_on_with_one(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"run__steps": 8, "run__precision": "fp64"}
    finish([start(recipe(tmp_path / "one", data__batch_size=8, **changes))])
    finish(start_workers(recipe(tmp_path / "mixed", data__batch_size=4, **changes), 2))
    (tmp_path / "mixed" / "checkpoints" / "step-00000008" / checkpoints.MARK).unlink()  # as if stopped after step 6
    finish([start(recipe(tmp_path / "mixed", data__batch_size=8, **changes))])
    assert difference(tmp_path / "one", tmp_path / "mixed") < 1e-8
