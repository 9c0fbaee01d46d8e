"""The loop, one for every method: it knows batches, steps and checkpoints, and no model, objective or data set."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs
from torch import Tensor, nn

from jepa_hub.masking.draws import keyed
from training import build, checkpoints, publish
from training.averaging.base import Averager, lost_worker
from training.averaging.registry import averager_class
from training.config import Settings
from training.data.batches import BadSamples, BatchReader, Layout, batches
from training.data.support import SUPPORT_VIEW
from training.data.views import DeviceViews
from training.flops import device_peak, training_flops_per_sample
from training.methods.base import Method
from training.online_probe import OnlineProbe
from training.optimizers import build_optimizer, schedule
from training.process_group import leave
from training.process_tuning import tune
from training.recipe import to_yaml
from training.sharding import check_sharding, gathered, whole
from training.watch import Clock, Guard, Log, Meter

logger = logging.getLogger(__name__)

MIXED = {"fp32": "no", "fp64": "no", "bf16": "bf16", "fp16": "fp16"}
STEP_DRAWS = 106  # purpose of a key, so that no two draws of a run share one


class Run:
    """One training run.

    Args:
        settings: everything that determines it.
        resume: "auto" (from the newest whole checkpoint in run.out, if any), "never", or a checkpoint's folder.

    Raises:
        ValueError, CheckpointError: settings, data and checkpoint do not fit each other.
    """

    def __init__(self, settings: Settings, *, resume: str = "auto") -> None:
        self.settings = settings
        self.out = Path(settings.run.out)
        if settings.run.threads:
            torch.set_num_threads(settings.run.threads)
        kind = averager_class(settings.averaging.name)
        averaging = build.own_settings(kind.Settings, settings.averaging, "averaging")
        self.accelerator = Accelerator(
            mixed_precision=MIXED[settings.run.precision],
            log_with=list(settings.run.trackers) or None,
            project_dir=str(self.out),
            step_scheduler_with_optimizer=False,  # else a schedule would step once per process
            dataloader_config=DataLoaderConfiguration(dispatch_batches=False, non_blocking=True),
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=averaging.timeout)),
                *kind.handlers(averaging),
            ],
        )
        check_sharding(self.accelerator)
        self.averager: Averager = kind(averaging, self.accelerator)
        tune(self.accelerator.device)
        self.dtype = torch.float64 if settings.run.precision == "fp64" else torch.float32
        self.layout = Layout(
            settings.data.batch_size,
            settings.run.accumulation,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self._build()
        self.step = 0  # optimizer steps done
        self.metrics: dict[str, Any] = {}
        self.probe: OnlineProbe | None = None
        if settings.probe is not None:
            with self.accelerator.main_process_first():
                self.probe = OnlineProbe(settings.probe, settings)
        self._resume(resume)

    def _build(self) -> None:
        settings = self.settings
        with self.accelerator.main_process_first():  # one process fills caches
            self.source = build.build_source(settings.data.source)
        model = build.build_model(settings)
        build.check_fit(self.source, model.config)
        sampler = build.build_masks(settings.masks, model.config) if settings.masks else None
        if settings.run.activation_checkpointing:
            model.activation_checkpointing_enable()
        support = build.build_support(settings, self.source, self.layout)
        self.reader = BatchReader(
            self.source, settings.data, sampler, build.view_size(model.config), settings.run.seed, self.layout, support
        )
        self.flops = training_flops_per_sample(settings, model.config, sampler)
        self.peak = peak_of(self.accelerator.device, settings.run.precision)
        self.views = DeviceViews(settings.data.views, settings.run.seed)
        method = build.build_method(settings, model).to(self.dtype).train()
        method.name_classes((support.source if support else self.source).labels)
        if settings.run.compile:
            compile_blocks(method)
        self.method, self.optimizer = self.averager.prepare(method, build_optimizer(method, settings.optim))

    @property
    def bare_method(self) -> Method:
        """The method without any wrapper."""
        return self.accelerator.unwrap_model(self.method)

    # ------------------------------------------------------------------------------------------------------ running

    def train(self) -> Path:
        """Train to the last step and return the folder of the finished model."""
        settings, main = self.settings, self.accelerator.is_main_process
        if main:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "settings.yaml").write_text(to_yaml(settings), encoding="utf-8")
        if settings.run.trackers:
            flat = checkpoints.flat(settings.model_dump(mode="json"))
            simple = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in flat.items()}
            self.accelerator.init_trackers("jepa_hub", config=simple)
        log = Log(self.out / "log.jsonl") if main else None
        try:
            with self.together():
                self._steps(log)
                return self.finish()
        finally:
            if log:
                log.close()
            if settings.run.trackers:
                self.accelerator.end_training()

    def close(self) -> None:
        """Leave the other workers; for a run that has ended well, which cannot be used any more."""
        del self.method, self.optimizer, self.averager
        self.accelerator.free_memory()  # it refers to them too
        leave()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work with other workers; ends what the averager runs beside it, and tells of lost ones in words."""
        try:
            yield
            self.averager.close(failed=False)
        except BaseException as error:
            self.averager.close(failed=True)
            lost = lost_worker(error, f"after step {self.step}") if self.layout.world > 1 else None
            if lost is None or lost is error:
                raise
            raise lost from error

    def _steps(self, log: Log | None) -> None:
        run = self.settings.run
        meter, guard, clock = Meter(), Guard(self.settings.watch), Clock()
        bad = BadSamples(self.settings.data.max_bad)
        passes = batches(self.reader, self.step, run.steps, pin_memory=self.accelerator.device.type == "cuda")
        bar = self._bar()
        since = self.step
        while self.step < run.steps:
            sampled, last_pixels = self.one_step(passes, meter, clock, bad)
            self.step += 1
            bar.update(1)
            if self.step % run.log_every == 0 or self.step == run.steps:
                entry = self._measure(meter, guard, clock, last_pixels, self.step - since)
                since = self.step
                bar.set_postfix_str(shown(entry))
                if log:
                    log.write({**entry, **sampled})
                self.accelerator.log({**entry, **sampled}, step=self.step)
            if self.probe and (self.step % self.probe.settings.every == 0 or self.step == run.steps):
                self._probe(self.probe, log)
            if self.step % run.save_every == 0 or self.step == run.steps:
                meter.check()  # weights of a diverged run never replace good ones
                self.save()
        bar.close()

    def one_step(
        self, passes: Iterator[dict[str, Any]], meter: Meter, clock: Clock, bad: BadSamples
    ) -> tuple[dict[str, float], Tensor]:
        """Forward and backward passes, one optimizer step, and what follows it."""
        settings = self.settings
        scheduled = schedule(self.optimizer, settings, self.step)
        # Seeding each step makes whatever the model draws a function of the step: resuming needs no generator state.
        torch.manual_seed(int(keyed(settings.run.seed, self.step, self.accelerator.process_index, STEP_DRAWS)))
        for part in range(settings.run.accumulation):
            start = time.perf_counter()
            batch = next(passes)
            clock.waited += time.perf_counter() - start
            bad.add(len(batch["index"]), batch["bad"])
            batch = self._to_device(batch)
            with self.averager.around_step(self.method, last=part == settings.run.accumulation - 1):
                metrics = self.method(batch)
                self.accelerator.backward(metrics["loss"] / settings.run.accumulation)
            meter.add(metrics, self.step)
        optim = settings.optim
        if optim.clip_norm is not None and self.step >= optim.clip_after:
            self.accelerator.unscale_gradients()
            norms = [
                whole(nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm))
                for network in self.bare_method.parts().values()
            ]
            meter.add({"loss": metrics["loss"], "grad_norm": torch.stack(norms).square().sum().sqrt()}, self.step)
        self.averager.step(self.method, self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        self.bare_method.after_step(self.step / settings.total_steps)
        return scheduled, batch["pixels"]

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        device, step = self.accelerator.device, batch["step"]

        def seen(crops: Tensor, index: Tensor, view: int = 0) -> Tensor:
            return self.views(crops.to(device, non_blocking=True), index, step, self.dtype, view)

        photometry = self.settings.data.photometry
        if photometry is None:
            views = {"pixels": seen(batch["crops"], batch["index"])}
        else:
            crops = batch["crops"].to(device, non_blocking=True)
            views = self.views.pair(crops, batch["index"], step, photometry, self.dtype)
        moved = {
            **views,
            "masks": [masks.to(device, non_blocking=True) for masks in batch.get("masks", ())],
            "labels": {name: value.to(device, non_blocking=True) for name, value in batch["labels"].items()},
            "index": batch["index"],
        }
        if "other_crops" in batch:
            others = [seen(crops, batch["index"], view) for view, crops in enumerate(batch["other_crops"], start=1)]
            moved["views"] = [moved["pixels"], *others]
        if "captions" in batch:
            moved["captions"] = batch["captions"]
            moved |= {name: batch[name].to(device, non_blocking=True) for name in ("caption_ids", "known_ids")}
        if "support" in batch:
            support = batch["support"]
            labelled = [
                seen(crops, support["index"], SUPPORT_VIEW + view) for view, crops in enumerate(support["crops"])
            ]
            placed = {name: support[name].to(device, non_blocking=True) for name in ("labels", "classes")}
            plain = {name: support[name] for name in ("num_classes", "label")}
            moved["support"] = {"pixels": torch.cat(labelled), **placed, **plain}
        return moved

    # ----------------------------------------------------------------------------------------------------- watching

    def _measure(self, meter: Meter, guard: Guard, clock: Clock, pixels: Tensor, steps: int) -> dict[str, Any]:
        """One line of the log; here the host waits for the device."""
        meter.check()
        means = meter.take()
        names = sorted(means)
        shared = self.accelerator.reduce(torch.stack([means[name] for name in names]), reduction="mean").tolist()
        entry: dict[str, Any] = {"step": self.step, **dict(zip(names, shared, strict=True))}
        with self.averager.evaluating(self.method), gathered(self.method), torch.no_grad(), self.accelerator.autocast():
            tokens = self.bare_method.features(pixels[:32])
        measured = guard.measure(tokens) | self.averager.report()
        peak = self.peak * self.layout.world if self.peak else None
        entry |= measured | clock.read(steps * self.layout.step_size, self.flops, peak)
        warning = guard.judge(self.step, measured)
        if warning:
            logger.warning("step %d: %s", self.step, warning)
        self.metrics |= {key: value for key, value in entry.items() if key != "wait_share"}
        return entry

    def _probe(self, probe: OnlineProbe, log: Log | None) -> None:
        """Score the features and keep the best model; every worker does the same, so that none waits for another."""
        with self.averager.evaluating(self.method):
            with gathered(self.method):
                score = probe.score(self.bare_method.model)
            entry = {"step": self.step, f"probe_{probe.settings.label}": score}
            if log:
                log.write(entry)
            self.accelerator.log(entry, step=self.step)
            self.metrics |= entry
            if probe.improves(score):
                self.write_model("best")

    def _bar(self) -> Any:
        from tqdm import tqdm

        hidden = not self.accelerator.is_main_process or os.environ.get("JEPA_HUB_NO_PROGRESS") == "1"
        return tqdm(total=self.settings.run.steps, initial=self.step, unit="step", disable=hidden, dynamic_ncols=True)

    # ------------------------------------------------------------------------------------------- saving and resuming

    def save(self) -> None:
        """Write a checkpoint and delete the oldest ones beyond run.keep_last."""

        def fill(folder: Path) -> None:
            with self.averager.evaluating(self.method):
                self.accelerator.save_state(str(folder))
            state = self.averager.state_dict()
            if state:
                torch.save(state, folder / f"averager_{self.accelerator.process_index}.pt")

        facts = {
            "best": self.probe.best if self.probe else None,
            "step_size": self.layout.step_size,
            "world": self.layout.world,
            "settings": self.settings.model_dump(mode="json"),
        }
        root = self.out / "checkpoints"
        main = self.accelerator.is_main_process
        checkpoints.write(root, self.step, fill, facts, is_main=main, wait=self.accelerator.wait_for_everyone)
        if main:
            checkpoints.prune(root, self.settings.run.keep_last)

    def _resume(self, resume: str) -> None:
        root = self.out / "checkpoints"
        if resume == "never":
            found = None
            if self.accelerator.is_main_process and root.exists():
                raise checkpoints.CheckpointError(
                    f"{root} holds checkpoints of an earlier run: delete it, choose another run.out, or resume"
                )
        elif resume == "auto":
            found = checkpoints.newest(root)
        else:
            path = Path(resume)
            facts = checkpoints.read_mark(path)
            found = checkpoints.Checkpoint(path, int(facts["step"]), facts)
        if found is None:
            return
        now, then = self.settings.model_dump(mode="json"), found.facts["settings"]
        checkpoints.check_same_run(now, then, self.layout.step_size, found.facts, found.path)
        self.accelerator.load_state(str(found.path))
        saved = found.path / f"averager_{self.accelerator.process_index}.pt"
        self.averager.load_state_dict(torch.load(saved, weights_only=True) if saved.is_file() else {})
        self.step = found.step
        if self.probe:
            self.probe.best = found.facts.get("best")
        if self.accelerator.is_main_process:
            checkpoints.cut_log(self.out / "log.jsonl", self.step)
            logger.info("resuming after step %d from %s", self.step, found.path)

    def finish(self) -> Path:
        """Write `final/`, the model as users load it."""
        self.averager.consolidate(self.method)
        self.write_model("final")
        return self.out / "final"

    def write_model(self, name: str) -> None:
        """Write the model to a folder of the run."""
        complete = self.accelerator.get_state_dict(self.method)
        if self.accelerator.is_main_process:
            state = {key.removeprefix("model."): value for key, value in complete.items() if key.startswith("model.")}
            publish.write_model(
                self.bare_method.model,
                self.out / name,
                self.settings,
                name=f"{self.settings.model.name}-{self.out.name}",
                state=state,
                step_size=self.layout.step_size,
                metrics=self.metrics,
            )
        self.accelerator.wait_for_everyone()


def compile_blocks(method: nn.Module) -> None:
    """Compile every transformer or residual block in place; lengths change with the masks, so shapes stay dynamic."""
    for module in method.modules():
        if type(module).__name__ in ("Block", "ModulatedBlock", "BasicBlock", "Bottleneck", "WideBlock"):
            module.compile(fullgraph=True, dynamic=True)


def peak_of(device: torch.device, precision: str) -> float | None:
    """Dense FLOP/s of a known GPU; None for what is not in the table."""
    return device_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def shown(entry: dict[str, Any]) -> str:
    """A log entry in the few words that fit beside a progress bar."""
    wanted = {"loss": "loss {:.4f}", "rank": "rank {:.1f}", "samples_per_second": "{:.0f} samples/s"}
    text = [form.format(entry[name]) for name, form in wanted.items() if name in entry]
    if entry.get("wait_share", 0) > 0.1:
        text.append(f"waits for data {entry['wait_share']:.0%} of the time")
    return ", ".join(text)
