"""One training step: jepa_hub against Meta's ijepa and jepa code on the same weights, tensors and masks, in one run.

    git clone https://github.com/facebookresearch/ijepa      # CC-BY-NC 4.0: stays outside this repository
    git clone https://github.com/facebookresearch/jepa
    python benchmarks/train_step.py --ijepa ijepa --jepa jepa
    python benchmarks/train_step.py --ijepa ijepa --jepa jepa --device cuda    # ViT-B/16, 224 pixels, bf16, batch 128

Exits 1 when I-JEPA's median ratio is below 2, on a GPU either's below 1.3, and 2 when a checkout is missing (then only
our side is measured). On a CPU V-JEPA is reported without a bar. Each side has a process of its own; they step in turn,
and who goes first alternates. A step is schedules, target features, context, prediction, loss, backward pass, AdamW and
moving average, on tensors and masks that are ready (Meta's collator draws them, both sides use the same); gradient
statistics for the log are left out.

Each side has one thread and is timed by the processor, which other jobs on the machine hardly disturb; with --threads 2
or more it is timed by the wall. Both must report the same loss at the first step, else a speed-up means nothing; how
far the losses of later steps differ, after either side's own updates, is printed.

On a GPU a round is ten steps, timed by the wall until the device is done; ours runs a second time with compiled blocks,
as `run.compile` does it. Meta's side scales its bf16 losses and reads each loss as its loops do, ours does neither.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import Worker, matrix_product_rate, onednn_rate, seconds, serve, spread
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
CHECKOUTS = {"ijepa": "ijepa", "vjepa": "jepa"}  # family: repository of facebookresearch
SCHEDULE = {"epochs": 100, "steps_per_epoch": 1000, "warmup_epochs": 40}
RATES = {"start": 2e-4, "peak": 1e-3, "final": 1e-6}
DECAY, MOMENTUM = (0.04, 0.4), (0.996, 1.0)
TOTAL = SCHEDULE["epochs"] * SCHEDULE["steps_per_epoch"]
Step = Callable[[int], Tensor]  # number of the step -> its loss


@dataclass(frozen=True)
class Case:
    """A family and the sizes of its comparison; `bar` is the least median ratio that passes, None only reports."""

    family: str
    arch: str
    size: int
    patch: int
    frames: int
    batch: int
    predictor_depth: int
    bar: float | None
    precision: str
    device: str

    @property
    def steps(self) -> int:
        """Steps of a round: a GPU is given enough work to hide what the host does between them."""
        return 10 if self.device == "cuda" else 1

    @property
    def grid(self) -> tuple[int, int, int]:
        side = self.size // self.patch
        return max(self.frames // 2, 1), side, side

    def __str__(self) -> str:
        frames = f"{self.frames} frames of " if self.frames > 1 else ""
        return (
            f"{self.family}: {self.arch}/{self.patch}, {frames}{self.size} px, batch {self.batch}, "
            f"predictor {self.predictor_depth} x 384, {self.precision}"
        )

    def autocast(self) -> torch.autocast:
        """What --precision asks for, of either side."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def pixels_of(case: Case) -> Tensor:
    """Random pixels [B, 3, F, H, W]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(case.batch, 3, case.frames, case.size, case.size, generator=generator).to(case.device)


def their_step(case: Case, checkout: str, folder: Path, steps: int) -> Step:
    """Meta's step, from the modules of a checkout; writes the weights and masks it starts from to `folder`."""
    sys.path.insert(0, checkout)
    torch.manual_seed(0)
    build = ijepa_parts if case.family == "ijepa" else vjepa_parts
    encoder, predictor, init_opt, collator, one = build(case)
    logging.disable(logging.INFO)  # their helpers log whole networks
    target = copy.deepcopy(encoder)
    target.requires_grad_(False)
    scaled = case.device == "cuda" and case.precision == "bf16"
    optimizer, scaler, rates, decays = init_opt(
        encoder=encoder,
        predictor=predictor,
        iterations_per_epoch=SCHEDULE["steps_per_epoch"],
        num_epochs=SCHEDULE["epochs"],
        warmup=SCHEDULE["warmup_epochs"],
        start_lr=RATES["start"],
        ref_lr=RATES["peak"],
        final_lr=RATES["final"],
        wd=DECAY[0],
        final_wd=DECAY[1],
        ipe_scale=1.0,
        **{"use_bfloat16" if case.family == "ijepa" else "mixed_precision": scaled},
    )
    networks = {"encoder": encoder, "predictor": predictor, "target_encoder": target}
    torch.save({name: network.state_dict() for name, network in networks.items()}, folder / "weights.pth.tar")
    pixels = pixels_of(case)
    inputs = pixels[:, :, 0].contiguous() if case.family == "ijepa" else pixels
    drawn = [collator(list(inputs.cpu()))[1:] for _ in range(steps)]  # (context, target) lists of [B, K]
    torch.save(drawn, folder / "masks.pt")
    ready = [[[mask.to(case.device) for mask in masks] for masks in both] for both in drawn]

    def step(index: int) -> Tensor:
        rates.step()
        decays.step()
        with case.autocast():
            loss = one(encoder, predictor, target, inputs, *ready[index])
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        momentum = MOMENTUM[0] + index * (MOMENTUM[1] - MOMENTUM[0]) / TOTAL
        with torch.no_grad():  # their average visits the parameters one by one
            for new, average in zip(encoder.parameters(), target.parameters(), strict=True):
                average.data.mul_(momentum).add_((1.0 - momentum) * new.detach().data)
        return torch.tensor(float(loss.detach()))  # read at every step

    return step


def ijepa_parts(case: Case) -> tuple[Any, ...]:
    """Networks, optimizer, masks and loss of facebookresearch/ijepa, with its published mask settings."""
    from src.helper import init_model, init_opt
    from src.masks.multiblock import MaskCollator
    from src.masks.utils import apply_masks
    from src.utils.tensors import repeat_interleave_batch

    encoder, predictor = init_model(
        case.device, patch_size=case.patch, model_name=case.arch, crop_size=case.size, pred_depth=case.predictor_depth
    )
    collator = MaskCollator(
        input_size=case.size,
        patch_size=case.patch,
        pred_mask_scale=(0.15, 0.2),
        enc_mask_scale=(0.85, 1.0),
        aspect_ratio=(0.75, 1.5),
        nenc=1,
        npred=4,
        min_keep=10,
    )

    def one(encoder: Any, predictor: Any, target: Any, images: Tensor, context: Any, predicted: Any) -> Tensor:
        with torch.no_grad():
            goal = target(images)
            goal = apply_masks(F.layer_norm(goal, goal.shape[-1:]), predicted)
            goal = repeat_interleave_batch(goal, len(images), repeat=len(context))
        return F.smooth_l1_loss(predictor(encoder(images, context), context, predicted), goal)

    return encoder, predictor, init_opt, collator, one


def vjepa_parts(case: Case) -> tuple[Any, ...]:
    """Networks, optimizer, masks and loss of facebookresearch/jepa, with its published mask settings."""
    from app.vjepa.utils import init_opt, init_video_model
    from src.masks.multiblock3d import MaskCollator
    from src.masks.utils import apply_masks

    encoder, predictor = init_video_model(
        device=case.device,
        patch_size=case.patch,
        num_frames=case.frames,
        tubelet_size=2,
        model_name=case.arch,
        crop_size=case.size,
        pred_depth=case.predictor_depth,
        pred_embed_dim=384,
        uniform_power=True,
        use_mask_tokens=True,
        num_mask_tokens=2,
        use_sdpa=True,
    )
    common = {"aspect_ratio": (0.75, 1.5), "temporal_scale": (1.0, 1.0), "max_temporal_keep": 1.0}
    groups = [
        {"num_blocks": 8, "spatial_scale": (0.15, 0.15), **common},
        {"num_blocks": 2, "spatial_scale": (0.7, 0.7), **common},
    ]
    collator = MaskCollator(
        cfgs_mask=groups, crop_size=case.size, num_frames=case.frames, patch_size=case.patch, tubelet_size=2
    )

    def one(encoder: Any, predictor: Any, target: Any, clips: Tensor, context: Any, predicted: Any) -> Tensor:
        with torch.no_grad():
            goal = target(clips)
            goals = apply_masks(F.layer_norm(goal, goal.shape[-1:]), predicted, concat=False)
        guesses = predictor(encoder(clips, context), goals, context, predicted)
        losses = [(guess - goal).abs().mean() for guess, goal in zip(guesses, goals, strict=True)]
        return torch.stack(losses).mean()  # their variance term has weight 0 and is left out

    return encoder, predictor, init_opt, collator, one


def our_step(case: Case, folder: Path, steps: int, compiled: bool = False) -> Step:
    """Our step, from the weights and masks in `folder`, or from our own where there are none."""
    sys.path.insert(0, str(ROOT))
    from jepa_hub.masks import Masks
    from training.loop import compile_blocks
    from training.methods.jepa import JEPA, JEPASettings
    from training.optimizers import build_optimizer, schedule
    from training.process_tuning import tune

    tune(torch.device(case.device))  # as a run does
    settings = our_settings(case)
    method = JEPA(our_model(case, folder), JEPASettings.model_validate(settings.method.own)).to(case.device)
    method.train()
    if compiled:
        compile_blocks(method)
    optimizer = build_optimizer(method, settings.optim)
    if (folder / "masks.pt").is_file():
        drawn = torch.load(folder / "masks.pt", weights_only=True)
        if case.family == "ijepa":  # one context, M targets: one group
            masks = [[Masks(context[0], torch.stack(target, dim=1))] for context, target in drawn]
        else:
            masks = [
                [Masks(c, t[:, None], group) for group, (c, t) in enumerate(zip(*lists, strict=True))]
                for lists in drawn
            ]
    else:
        masks = own_masks(case, steps)
    masks = [[group.to(case.device) for group in groups] for groups in masks]
    pixels = pixels_of(case)

    def step(index: int) -> Tensor:
        schedule(optimizer, settings, index)
        with case.autocast():
            loss = method({"pixels": pixels, "masks": masks[index]})["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(index / settings.total_steps)
        detached: Tensor = loss.detach()
        return detached

    return step


def our_settings(case: Case) -> Any:
    """The settings of a run that trains as the peer does here."""
    from training.config import Settings

    return Settings.model_validate(
        {
            "model": {"name": case.family},
            "method": {
                "name": "jepa",
                "distance": "smooth_l1" if case.family == "ijepa" else "l1",
                "momentum": MOMENTUM,
            },
            "data": {"source": {"name": "ready tensors"}, "batch_size": case.batch},
            "optim": {
                "lr": RATES["peak"],
                "start_lr": RATES["start"],
                "final_lr": RATES["final"],
                "warmup_steps": SCHEDULE["warmup_epochs"] * SCHEDULE["steps_per_epoch"],
                "weight_decay": DECAY,
            },
            "run": {"steps": TOTAL, "out": "nowhere"},
        }
    )


def our_model(case: Case, folder: Path) -> Any:
    """Our model with the peer's weights, or random ones."""
    from jepa_hub.models.base import JEPAModel
    from jepa_hub.models.registry import model_class

    if (folder / "weights.pth.tar").is_file():
        return JEPAModel.from_pretrained(folder / "weights.pth.tar", family=case.family)
    kind = model_class(case.family)
    frames = {} if case.frames == 1 else {"num_frames": case.frames, "tubelet_size": 2}
    depth = {"predictor_num_hidden_layers": case.predictor_depth, "predictor_hidden_size": 384}
    torch.manual_seed(0)
    return kind(kind.config_class.of_size(case.arch, image_size=case.size, patch_size=case.patch, **frames, **depth))


def own_masks(case: Case, steps: int) -> list[Any]:
    """Masks of the published kind, as Meta's code draws them."""
    from jepa_hub.masking.samplers import MultiBlock2D, MultiBlock3D

    kind = MultiBlock2D if case.family == "ijepa" else MultiBlock3D
    sampler = kind(grid=case.grid, mode="faithful")
    return [sampler(range(case.batch), seed=0, step=step) for step in range(steps)]


def compare(case: Case, arguments: argparse.Namespace) -> bool:
    """Run one case and print it; True if it passes its bar."""
    checkout = getattr(arguments, CHECKOUTS[case.family])
    sides = [*(["theirs"] if checkout else []), "ours", *(["compiled"] if case.device == "cuda" else [])]
    clock = time.process_time if timed_by(arguments) == "processor" else time.perf_counter
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        workers = {}
        for side in sides:  # theirs first: it writes the weights
            workers[side] = Worker([__file__, *sys.argv[1:], "--child", case.family, side, folder])
        losses: dict[str, list[float]] = {side: [workers[side].ask("run 0")["result"]] for side in sides}  # warm-up
        taken: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        rates = []
        for index in range(1, arguments.rounds + 1):
            if case.device == "cuda":
                rates.append((device_product_rate(dtype), 0.0))
            else:
                rates.append((matrix_product_rate(clock, dtype), onednn_rate(clock, dtype)))
            for side in sides[:: 1 if index % 2 else -1]:  # who goes first alternates
                taken[side].append(workers[side].ask(f"run {index}"))
                losses[side].append(taken[side][-1]["result"])
        memory = {side: workers[side].ask("memory") for side in sides}
        flops = {side: workers[side].ask(f"flops {arguments.rounds + 1}") / case.steps for side in sides[:2]}
        flops["compiled"] = flops["ours"]  # what is compiled cannot be counted, and is the same
        for worker in workers.values():
            worker.close()
    print(case, flush=True)
    product, onednn = (statistics.median(each) for each in zip(*rates, strict=True))
    print(
        f"    matrix products: {product / 1e9:.0f} GFLOP/s by a @ b"
        + (f", {onednn / 1e9:.0f} by oneDNN" * (onednn > 0))
    )
    times = {side: [each[timed_by(arguments)] / case.steps for each in taken[side]] for side in sides}
    for side in sides:
        middle = statistics.median(times[side])
        wall = statistics.median(each["seconds"] / case.steps for each in taken[side])
        print(
            f"    {side}: {spread([1e3 * each for each in times[side]])} ms a step of {flops[side] / 1e9:.0f} GFLOP, "
            f"{flops[side] / middle / product:.0%} of the rate of a @ b; {1e3 * wall:.1f} ms on the wall, "
            f"{case.batch / wall:.0f} samples a second, peak memory {memory[side]:.0f} MB"
        )
    if not checkout:
        return True
    ceiling = statistics.median(times["theirs"]) * product / flops["ours"]
    print(f"    our products alone, and nothing else, at the rate of a @ b: {ceiling:.2f}x faster")
    passed = judge(case, "ours", losses, times)
    return passed if "compiled" not in sides else judge(case, "compiled", losses, times) and passed


def timed_by(arguments: argparse.Namespace) -> str:
    """Which clock decides: that of the processor, which other jobs hardly disturb, where it sees all of the work."""
    return "processor" if arguments.threads == 1 and arguments.device == "cpu" else "seconds"


def device_product_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a large `a @ b` on the GPU, best of several."""
    size = 8192
    a, b = (torch.randn(size, size, dtype=dtype, device="cuda") for _ in range(2))

    def run() -> None:
        for _ in range(5):
            a @ b
        torch.cuda.synchronize()

    run()
    return 5 * 2.0 * size**3 / min(seconds(run) for _ in range(5))


def judge(case: Case, side: str, losses: dict[str, list[float]], times: dict[str, list[float]]) -> bool:
    """Print the ratio of one of our sides; True if it passes the case's bar.

    Raises:
        SystemExit: the two sides do not compute the same loss.
    """
    ratios = [theirs / ours for theirs, ours in zip(times["theirs"], times[side], strict=True)]
    passed = case.bar is None or statistics.median(ratios) >= case.bar
    verdict = "no bar" if case.bar is None else f"bar {case.bar}, {'passed' if passed else 'BELOW ITS BAR'}"
    apart = [abs(ours - theirs) for ours, theirs in zip(losses[side], losses["theirs"], strict=True)]
    print(
        f"    {side}: losses differ by {apart[0]:.1e} at the first step, {max(apart):.1e} at most over {len(apart)} "
        f"rounds\n    {side}: {spread(ratios)}x faster, {verdict}",
        flush=True,
    )
    if apart[0] > (1e-4 if case.precision == "fp32" else 1e-2):
        raise SystemExit(f"{case.family}: the losses do not agree ({losses}); a speed-up would mean nothing")
    return passed


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """The cases asked for."""
    how, depth = (arguments.precision, arguments.device), arguments.predictor_depth
    image = (arguments.arch, arguments.size, arguments.patch, 1, arguments.batch, depth)
    if arguments.device == "cuda":
        clip = (arguments.arch, arguments.size, arguments.patch, 16, max(arguments.batch // 16, 1), depth)
        return [Case(name, *(image if name == "ijepa" else clip), 1.3, *how) for name in arguments.cases]
    clip = ("vit_small", 64, 8, 16, 4, depth)
    bars = {"ijepa": 2.0, "vjepa": None}
    return [Case(name, *(image if name == "ijepa" else clip), bars[name], *how) for name in arguments.cases]


# What is not asked for, by device.
DEFAULTS = {
    "cpu": {"arch": "vit_small", "size": 112, "patch": 8, "batch": 16, "predictor_depth": 6, "precision": "fp32"},
    "cuda": {"arch": "vit_base", "size": 224, "patch": 16, "batch": 128, "predictor_depth": 12, "precision": "bf16"},
}


def main() -> None:
    """Parse arguments, run the cases, exit 1 below the bar and 2 without a peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("ijepa", "jepa"):
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=f"checkout of facebookresearch/{name}")
    parser.add_argument("--cases", nargs="+", choices=("ijepa", "vjepa"), default=["ijepa", "vjepa"])
    parser.add_argument("--rounds", type=int, default=7, help="alternations, five at least")
    parser.add_argument("--device", choices=tuple(DEFAULTS), default="cpu")
    parser.add_argument("--arch", help="of I-JEPA, on a GPU of both, as are the next three; see DEFAULTS")
    parser.add_argument("--size", type=int, help="pixels")
    parser.add_argument("--patch", type=int, help="pixels")
    parser.add_argument("--batch", type=int, help="pictures; on a GPU 1/16 as many clips")
    parser.add_argument("--predictor-depth", type=int)
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="bf16: autocast, both sides")
    parser.add_argument("--threads", type=int, default=1, help="of either side; 1 is timed by the processor")
    parser.add_argument("--child", nargs=3, metavar=("CASE", "SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, value in DEFAULTS[arguments.device].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    if arguments.rounds < 5:
        parser.error("--rounds must be 5 or more: a spread over fewer says nothing")
    for path in (arguments.ijepa, arguments.jepa):
        if path is not None and not (path / "src").is_dir():
            parser.error(f"{path} is no checkout of Meta's code: it has no folder src")
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        child(arguments)
        return
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}", flush=True)
    results = [compare(case, arguments) for case in cases_of(arguments)]
    absent = [name for name in (CHECKOUTS[case] for case in arguments.cases) if getattr(arguments, name) is None]
    for name in absent:
        print(f"no peer: git clone https://github.com/facebookresearch/{name}, then --{name} PATH")
    sys.exit(2 if absent else 0 if all(results) else 1)


def child(arguments: argparse.Namespace) -> None:
    """One side of one case, in a process of its own."""
    (name, side, folder), cases = arguments.child, {case.family: case for case in cases_of(arguments)}
    case = cases[name]
    steps = (arguments.rounds + 2) * case.steps  # with the warm-up and the count of FLOPs

    def prepare() -> tuple[Any, Callable[[int], float]]:
        if side == "theirs":
            checkout = getattr(arguments, CHECKOUTS[name])
            step = their_step(case, str(checkout.resolve()), Path(folder), steps)
        else:
            step = our_step(case, Path(folder), steps, compiled=side == "compiled")

        def run(index: int) -> float:  # a round; the loss of its first step
            losses = [step(each) for each in range(index * case.steps, (index + 1) * case.steps)]
            return float(torch.stack([loss.float().cpu() for loss in losses])[0])  # waits for the device

        return "ready", run

    def most() -> float:
        return torch.cuda.max_memory_allocated()

    serve(prepare, most if arguments.device == "cuda" else None)


if __name__ == "__main__":
    main()
