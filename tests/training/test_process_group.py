"""When a group of workers ends, so do its threads: one that outlives Python's end aborts the process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

from tests.training.worker import gloo_threads


def work(rank: int, folder: str) -> None:
    """One of two workers; writes how many threads there are in the group, and after it."""
    import torch.distributed as dist

    from training.process_group import leave

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    dist.all_reduce(torch.ones(1))
    within = gloo_threads()
    del model
    leave()
    assert not dist.is_initialized()
    leave()  # nothing is left to leave
    Path(folder, f"{rank}").write_text(f"{within} {gloo_threads()}")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads from /proc")
def test_the_threads_end(tmp_path: Path) -> None:
    """Of a bare group; that those of a run end is asserted by every worker of tests/training/worker.py."""
    start_processes(work, (str(tmp_path),), nprocs=2, start_method="spawn")
    for rank in ("0", "1"):
        within, after = (tmp_path / rank).read_text().split()
        assert int(within) > 0 and after == "0"
