"""Reproduce claims of the papers at small scale, and render REPRODUCTION.md from the result files.

    python -m training.reproduce ijepa vjepa --budget-minutes 60     # run what is missing, then render
    python -m training.reproduce --render                            # render only; runs nothing

One JSON per (claim, arm, seed), written when the cell is done; a rerun computes only what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training.claims.base import Results
from training.claims.registry import CLAIMS, claim

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "claims" / "results"
WORK = Path("runs") / "claims"


def result_path(results: Path, name: str, arm: str, seed: int) -> Path:
    """Where the result of one cell is kept."""
    return results / name / f"{arm}-seed{seed}.json"


def load_results(results: Path, name: str) -> Results:
    """Every result of a claim: arm -> seed -> file.

    Raises:
        ValueError: a file is not a result of this claim.
    """
    found: Results = {}
    for path in sorted((results / name).glob("*-seed*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry.get("claim") != name or path != result_path(results, name, entry["arm"], entry["seed"]):
            raise ValueError(f"{path} is not a result of the claim {name}: it says {entry.get('claim')!r}")
        found.setdefault(entry["arm"], {})[entry["seed"]] = entry
    return found


def hardware() -> str:
    """What a cell runs on: the GPU where there is one, as training takes it."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} thread(s)"


def run_cell(results: Path, work: Path, name: str, arm: str, seed: int) -> Path:
    """Run one cell and write its result; the run's folder stays, so that a cell that was cut off goes on."""
    from jepa_hub.version import __version__

    chosen = claim(name).arm(arm)
    start = time.perf_counter()
    metrics = chosen.run(seed, work / name / f"{arm}-seed{seed}")
    import torch

    entry = {
        "claim": name,
        "arm": arm,
        "seed": seed,
        "metrics": metrics,
        "seconds": round(time.perf_counter() - start, 1),
        "hardware": hardware(),
        "jepa_hub": __version__,
        "torch": torch.__version__,
    }
    path = result_path(results, name, arm, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    draft.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


class Pool:
    """Cells as processes of one thread each, a few at a time."""

    def __init__(self, results: Path, work: Path, jobs: int, deadline: float) -> None:
        self.results, self.work, self.jobs, self.deadline = results, work, jobs, deadline
        self.running: list[tuple[subprocess.Popen[bytes], str, str, int, float]] = []
        self.failed: list[str] = []
        self.longest: dict[str, float] = {}  # seconds per arm, so that no cell starts that cannot end in time

    def run(self, cells: Sequence[tuple[str, str, int]]) -> int:
        """Run cells in order; how many were left out because the budget would not have sufficed."""
        left_out = 0
        for name, arm, seed in cells:
            while len(self.running) >= self.jobs:
                self._collect()
            if time.monotonic() + self.longest.get(f"{name}/{arm}", 0.0) > self.deadline:
                left_out += 1
                continue
            self._start(name, arm, seed)
        while self.running:
            self._collect()
        return left_out

    def _start(self, name: str, arm: str, seed: int) -> None:
        command = [sys.executable, "-m", "training.reproduce", "--cell", name, arm, str(seed)]
        command += ["--results", str(self.results), "--work", str(self.work)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "JEPA_HUB_NO_PROGRESS"), "1")
        log = self.work / name / f"{arm}-seed{seed}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            process = subprocess.Popen(command, env={**os.environ, **threads}, stdout=file, stderr=file)
        print(f"{name} {arm} seed {seed}: started (log: {log})", flush=True)
        self.running.append((process, name, arm, seed, time.monotonic()))

    def _collect(self) -> None:
        time.sleep(0.2)
        for entry in list(self.running):
            process, name, arm, seed, start = entry
            if process.poll() is None:
                continue
            self.running.remove(entry)
            seconds = time.monotonic() - start
            self.longest[f"{name}/{arm}"] = max(seconds, self.longest.get(f"{name}/{arm}", 0.0))
            good = process.returncode == 0
            print(f"{name} {arm} seed {seed}: {'done' if good else 'FAILED'} after {seconds:.0f} s", flush=True)
            if not good:
                self.failed.append(f"{name} {arm} seed {seed}")


def reproduce(names: Sequence[str], results: Path, work: Path, *, full: bool, jobs: int, budget: float | None) -> Pool:
    """Run what is missing of the claims' grids, seeds of all claims first."""
    wanted: list[tuple[int, str, str, int]] = []
    for name in names:
        for arm, seed in claim(name).grid(full=full):
            if not result_path(results, name, arm, seed).is_file():
                wanted.append((seed, name, arm, seed))
    cells = [(name, arm, seed) for _, name, arm, seed in sorted(wanted, key=lambda each: each[0])]
    pool = Pool(results, work, jobs, time.monotonic() + (budget * 60 if budget else float("inf")))
    left_out = pool.run(cells)
    print(f"{len(cells) - left_out - len(pool.failed)} cells done, {left_out} left out, {len(pool.failed)} failed")
    return pool


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with status 1 if a cell failed."""
    parser = argparse.ArgumentParser(prog="training.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("claims", nargs="*", help=f"any of {', '.join(CLAIMS)}")
    parser.add_argument("--full", action="store_true", help="the full grid instead of the core one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at a time, one thread each")
    parser.add_argument("--budget-minutes", type=float, help="start no cell that would end later")
    parser.add_argument("--render", action="store_true", help="render only")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of runs")
    parser.add_argument("--out", type=Path, default=Path("REPRODUCTION.md"), help="what is rendered")
    parser.add_argument("--cell", nargs=3, metavar=("CLAIM", "ARM", "SEED"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.cell:
        name, arm, seed = chosen.cell
        run_cell(chosen.results, chosen.work, name, arm, int(seed))
        return
    names = _names(parser, chosen.claims)
    failed: list[str] = []
    if not chosen.render:
        pool = reproduce(
            names, chosen.results, chosen.work, full=chosen.full, jobs=chosen.jobs, budget=chosen.budget_minutes
        )
        failed = pool.failed
    from training.rendering import render

    render(chosen.results, chosen.out)
    print(f"rendered {chosen.out}")
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


def _names(parser: argparse.ArgumentParser, given: Sequence[str]) -> list[str]:
    for name in given:
        try:
            claim(name)
        except ValueError as error:
            parser.error(str(error))
    return list(given) or list(CLAIMS)


if __name__ == "__main__":
    main()
