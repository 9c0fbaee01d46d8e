"""`--dry-run`: build everything, take two steps, say what a run would do, write nothing."""

from __future__ import annotations

import tempfile

from training.config import Settings
from training.data.batches import BadSamples, batches
from training.loop import Run
from training.watch import Clock, Meter

STEPS = 2


def dry_run(settings: Settings) -> dict[str, float]:
    """Means of what two steps measured; a summary is printed.

    Raises:
        ValueError, CheckpointError, DivergedError: as a real run.
    """
    with tempfile.TemporaryDirectory() as folder:
        few = settings.run.model_copy(update={"out": folder, "trackers": ()})
        run = Run(settings.model_copy(update={"run": few}), resume="never")
        passes = batches(run.reader, 0, STEPS, pin_memory=False)
        meter, clock, bad = Meter(), Clock(), BadSamples(settings.data.max_bad)
        with run.together():
            for _ in range(STEPS):
                run.one_step(passes, meter, clock, bad)
                run.step += 1
        meter.check()
        means = {name: float(value) for name, value in meter.take().items()}
    if run.accelerator.is_main_process:
        trained = sum(each.numel() for each in run.bare_method.parameters() if each.requires_grad)
        speed = clock.read(STEPS * run.layout.step_size, None, None)["samples_per_second"]
        print(f"{trained:,} trained parameters on {run.accelerator.device}, {run.layout.world} worker(s)")
        per_epoch = run.reader.steps_per_epoch
        print(f"{len(run.source):,} samples, {run.layout.step_size} per step, {per_epoch:,} steps per epoch")
        print(f"{STEPS} steps: " + ", ".join(f"{name} {value:.4g}" for name, value in means.items()))
        print(f"ready for {settings.run.steps:,} steps; so far {speed:.0f} samples/s, start-up included")
    return means
