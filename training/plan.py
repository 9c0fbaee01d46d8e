"""What a recipe costs before anything runs: `python -m training.plan RECIPE [key=value ...] --devices 16`.

Parameters, tokens, FLOPs (`training.flops`), memory per device (`training.memory`) and hours at a stated share of the
devices' peak. Everything is computed from the settings: no data are read and no weights are made.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from training.config import Settings


class Published(NamedTuple):
    """A training time that a paper states: at most `hours` on `devices` of `gpu`."""

    hours: float
    devices: int
    gpu: str
    source: str


_PARTS = ("encoder", "predictor", "text", "mixing")
PUBLISHED = {"ijepa/vith14_in1k": Published(72, 16, "a100", "arXiv:2301.08243, abstract")}


def plan(settings: Settings, *, name: str = "", devices: int = 1, gpu: str | None = None, mfu: float = 0.4) -> Any:
    """What a run costs, as a tree of plain numbers (JSON).

    Args:
        settings: of the run.
        name: of the recipe; a few have a published training time.
        devices: that share the work; `data.batch_size` is that of each.
        gpu: name of the devices, see `training.flops.find_device`; None gives no hours.
        mfu: model FLOPs utilisation, the share of the peak that trains.

    Raises:
        ValueError: the GPU is unknown, or the recipe's method has no formula.
    """
    from jepa_hub.models.config import NETWORKS
    from jepa_hub.models.llip_config import LlipConfig
    from jepa_hub.models.paws import PAWSConfig
    from training import build, flops, pair_costs, picture_costs, whole_costs
    from training.methods.registry import method_class

    if devices < 1 or not 0 < mfu <= 1:
        raise ValueError(f"--devices must be 1 or more and --mfu in (0, 1], got {devices} and {mfu:g}")
    config = build.model_config(settings)
    config.networks = [name for name in NETWORKS if name in method_class(settings.method.name).networks]
    checkpointing = settings.run.activation_checkpointing
    draws = None
    masked: Any = {}
    if settings.method.name in whole_costs.METHODS:
        count = whole_costs.step_flops(settings, config)
        # no formula of memory knows the blocks of a diffusion transformer
        draws = whole_costs.draws(settings, config) if settings.method.name != "diffusion" else None
    elif settings.masks is not None:
        sampler = build.build_masks(settings.masks, config)
        draws = masked = flops.mask_draws(sampler, batch_size=settings.data.batch_size, seed=settings.run.seed)
        count = flops.flops_of(config, settings.method.name, draws, checkpointing=checkpointing)
    elif isinstance(config, PAWSConfig):
        count = picture_costs.step_flops(settings, config)
    elif isinstance(config, LlipConfig):
        count = pair_costs.step_flops(settings, config, devices)
    else:
        raise ValueError(f"no cost is known for the method {settings.method.name}, which has no masks")
    step_size = settings.data.batch_size * settings.run.accumulation * devices
    total = count.training * step_size * settings.run.steps
    return {
        "recipe": name,
        "devices": devices,
        "batch_size": settings.data.batch_size,
        "step_size": step_size,
        "steps": settings.run.steps,
        "samples": step_size * settings.run.steps,
        "precision": settings.run.precision,
        "activation_checkpointing": checkpointing,
        "parameters": (pair_costs if isinstance(config, LlipConfig) else flops).count_parameters(config),
        "tokens": _tokens(config.base_grid, masked),
        "flops": {
            "forward": count.forward,
            "backward": count.backward,
            "sample": count.training,
            "recomputed": count.recomputed,
            "step": count.training * step_size,
            "total": total,
        },
        "memory": _memory(settings, config, draws, devices) if draws else None,  # unknown for other methods
        "time": _time(total, settings.run.precision, devices, gpu, mfu) if gpu else None,
        "published": _published(name, total, settings.run.precision),
    }


def _tokens(grid: Any, draws: Any) -> dict[str, Any]:
    """Of a sample: all, and means per group of masks."""
    groups = []
    for index, first in enumerate(next(iter(draws), ())):
        context = sum(share * each[index].context for each, share in draws.items())
        target = sum(share * each[index].target for each, share in draws.items())
        groups.append({"context": context, "targets": first.targets, "target": target})
    return {"grid": list(grid), "all": math.prod(grid), "groups": groups}


def _memory(settings: Settings, config: Any, draws: Any, devices: int) -> dict[str, Any]:
    """Bytes per device by kind of sharing, with and without activation checkpointing."""
    from training import memory

    precision = settings.run.precision
    result: dict[str, Any] = {}
    for kind in ("ddp", "fsdp2"):
        for checkpointing in (False, True):
            each = memory.activation_bytes(config, draws, precision, checkpointing=checkpointing)
            found = memory.step_memory(
                config,
                settings.optim,
                precision,
                each * settings.data.batch_size,
                devices=devices,
                sharded=kind == "fsdp2",
            )
            key = f"{kind}_checkpointing" if checkpointing else kind
            result[key] = {**found._asdict(), "total": found.total}
    return result


def _time(total: float, precision: str, devices: int, gpu: str, mfu: float) -> dict[str, Any]:
    from training.flops import DEVICES, device_peak, find_device

    device, peak = find_device(gpu), device_peak(gpu, precision)
    if device is None:
        known = ", ".join(each.words.replace(" ", "-") for each in DEVICES)
        raise ValueError(f"unknown GPU {gpu!r}; there are {known}, each with a size such as -80gb where it has several")
    if peak is None:
        raise ValueError(f"no peak is known for {gpu} in {precision}: set run.precision=bf16, fp16 or fp32")
    hours = total / (peak * devices * mfu) / 3600
    return {"gpu": gpu, "peak": peak, "mfu": mfu, "hours": hours, "gpu_hours": hours * devices, "gib": device.memory}


def _published(name: str, total: float, precision: str) -> dict[str, Any] | None:
    from training.flops import device_peak

    stated = PUBLISHED.get(name)
    peak = device_peak(stated.gpu, precision) if stated else None
    if stated is None or peak is None:
        return None
    mfu = total / (stated.hours * 3600 * stated.devices * peak)
    return {**stated._asdict(), "mfu": mfu}


# ------------------------------------------------------------------------------------------------------------ as words


def amount(value: float, unit: str) -> str:
    """A number with three digits and a prefix, e.g. 1.57 PFLOP."""
    if value >= 1e21:
        return f"{value:.2e} {unit}"
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return (
                f"{value / size:.3g} {prefix}{unit}" if value < 999.5 * size else f"{value / size:.0f} {prefix}{unit}"
            )
    return f"{value:.3g} {unit}"


def gib(value: float) -> str:
    """Bytes in GiB."""
    return f"{value / 2**30:.3g} GiB"


def millions(value: float) -> str:
    """Parameters in millions."""
    return f"{value / 1e6:.4g} M" if value < 1e9 else f"{value / 1e6:.1f} M"


def duration(hours: float) -> str:
    """Hours, or minutes when there are few."""
    return f"{hours:.3g} h" if hours >= 1 else f"{hours * 60:.2g} min"


def cost_lines(costs: Any) -> list[str]:
    """What a recipe's header says after "Cost:"; `--header` prints it."""
    parameters, flops, memory = costs["parameters"], costs["flops"], costs["memory"]
    first = ", ".join(f"{name} {millions(parameters[name])}" for name in _PARTS if name in parameters)
    first += " parameters"
    work = f"{amount(flops['sample'], 'FLOP')} a sample, {amount(flops['step'], 'FLOP')} a step, "
    work += f"{flops['total']:.2e} FLOP in all"
    lines = [f"{first}; {work}"] if "text" not in parameters else [first, work]  # three names fill a line
    lines += _memory_line(costs, memory) if memory else ()
    if costs["time"]:
        time = costs["time"]
        third = f"{duration(time['hours'])} on {costs['devices']} x {time['gpu']} at {time['mfu'] * 100:.3g} % MFU "
        lines.append(third + "(computed by python -m training.plan, not measured)")
    return lines


def _memory_line(costs: Any, memory: Any) -> list[str]:
    plain, thrifty = (
        [gib(memory[kind + ending]["total"]) for kind in ("ddp", "fsdp2")] for ending in ("", "_checkpointing")
    )
    if costs["activation_checkpointing"]:
        plain, thrifty = thrifty, plain
    other = "without" if costs["activation_checkpointing"] else "with"
    if costs["devices"] == 1:
        second = f"{plain[0]} of memory ({thrifty[0]} {other} activation checkpointing)"
    else:
        second = f"{plain[0]} per device with DDP, {plain[1]} with FSDP2 "
        second += f"({thrifty[0]} and {thrifty[1]} {other} activation checkpointing)"
    return [second]


def report(costs: Any) -> str:
    """The costs for people."""
    flops, tokens = costs["flops"], costs["tokens"]
    rows = [
        costs["recipe"],
        "parameters  " + ", ".join(f"{name} {millions(value)}" for name, value in costs["parameters"].items()),
        f"tokens      {tokens['all']} in a sample, a grid of {' x '.join(map(str, tokens['grid']))}",
    ]
    for index, group in enumerate(tokens["groups"]):
        rows.append(
            f"  masks {index}   {group['context']:.0f} of context, {group['targets']} x {group['target']:.0f} of target"
            " (means)"
        )
    for name, forward in flops["forward"].items():
        backward = flops["backward"].get(name, 0.0)
        rows.append(
            f"  {name:<16} {amount(forward, 'FLOP')} forward, {amount(backward, 'FLOP')} backward a sample"
            if backward
            else f"  {name:<16} {amount(forward, 'FLOP')} forward a sample"
        )
    again = f" ({amount(flops['recomputed'], 'FLOP')} more are recomputed)" if flops["recomputed"] else ""
    rows += [
        f"FLOPs       {amount(flops['sample'], 'FLOP')} a sample{again}; {amount(flops['step'], 'FLOP')} a step of "
        f"{costs['step_size']} ({costs['devices']} x {costs['step_size'] // costs['devices']}); {flops['total']:.2e} "
        f"FLOP in {costs['steps']:,} steps",
        *(_memory_rows(costs) if costs["memory"] else ("memory      not computed for this method",)),
    ]
    if costs["time"]:
        time = costs["time"]
        rows.append(
            f"time        {duration(time['hours'])} on {costs['devices']} x {time['gpu']} "
            f"({amount(time['peak'], 'FLOP/s')} dense {costs['precision']}) at {time['mfu'] * 100:.3g} % MFU, "
            f"{time['gpu_hours']:,.3g} GPU hours"
        )
    if costs["published"]:
        stated = costs["published"]
        rows.append(
            f"published   under {stated['hours']} h on {stated['devices']} x {stated['gpu']} ({stated['source']}): "
            f"{stated['mfu'] * 100:.1f} % MFU or more with the masks of this recipe"
        )
    return "\n".join(rows)


def _memory_rows(costs: Any) -> list[str]:
    """One row per kind of sharing."""
    limit = costs["time"]["gib"] if costs["time"] else None
    kinds = {"ddp": "DDP", "fsdp2": "FSDP2"} if costs["devices"] > 1 else {"ddp": "one device"}
    rows = []
    for key, title in kinds.items():
        for ending, words in (("", ""), ("_checkpointing", ", activations recomputed")):
            found = costs["memory"][key + ending]
            parts = ", ".join(
                f"{name.replace('_', ' ')} {gib(value)}"
                for name, value in found.items()
                if value >= 0.05 * 2**30 and name != "total"
            )
            fits = "" if limit is None or found["total"] < 0.9 * limit * 2**30 else f", too much for {limit} GiB"
            rows.append(f"memory      {gib(found['total'])} per device, {title}{words}{fits}: {parts}")
    return rows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.plan", description="What a recipe costs.")
    parser.add_argument("recipe", help="a name such as ijepa/vith14_in1k, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    parser.add_argument("--devices", type=int, default=1, help="GPUs that share the work (default: 1)")
    parser.add_argument("--gpu", default="a100-80gb", help='such as h100, rtx-4090, or "none" (default: a100-80gb)')
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that trains (default: 0.4)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON")
    shape.add_argument("--header", action="store_true", help='print the "Cost:" lines of a recipe\'s header')
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what the user can mend is told in one paragraph and exits with status 1."""
    chosen = parse(arguments)
    try:
        from training.recipe import load_recipe

        settings = load_recipe(chosen.recipe, chosen.overrides)
        gpu = None if chosen.gpu == "none" else chosen.gpu
        costs = plan(settings, name=chosen.recipe, devices=chosen.devices, gpu=gpu, mfu=chosen.mfu)
    except ValueError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    if chosen.json:
        print(json.dumps(costs, indent=2))
    elif chosen.header:
        print("# Cost:   " + "\n#         ".join(cost_lines(costs)))
    else:
        print(report(costs))


if __name__ == "__main__":
    main()
