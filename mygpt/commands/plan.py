"""`mygpt plan`: how much memory a command needs on each device."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mygpt.commands._parser import Parser, make_parser, parse, take, with_strategy
from mygpt.commands._torch import import_torch
from mygpt.errors import InputError
from mygpt.options import COMMAND_STRATEGIES, LoadOptions, PlanOptions

if TYPE_CHECKING:
    from rich.table import Table

    from mygpt.loading.plan import Plan
    from mygpt.loading.workspace import Workload
    from mygpt.model.config import Config
    from mygpt.quantize.schemes import Scheme

COUNTS = (1, 2, 4, 5, 8)
QUANTIZATIONS = (None, "bnb.nf4", "bnb.nf4-dq", "bnb.int8")
COMPARED = (
    ("generate_sequentially", "sequential"),
    ("generate_tp", "tensor"),
    ("generate --strategy fsdp", "fsdp"),
)
EXAMPLES = (
    "mygpt plan qwen3-4b",
    "mygpt plan llama-3.3-70b --command generate_tp --devices 4 --device_memory 80G",
    "mygpt plan mistral-7b --compare --device_memory 24GB",
)


def build_parser() -> Parser:
    """The options of the command."""
    description = "Show how much memory a command takes on each device, and whether it fits."
    parser = make_parser("plan", description, EXAMPLES)
    parser.add_class_arguments(PlanOptions)
    parser.add_class_arguments(LoadOptions, skip={"compile", "prompt_style"})
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parse the options, plan, print."""
    parsed = parse(build_parser(), arguments)
    parsed["compile"], parsed["prompt_style"] = False, None
    options = take(PlanOptions, parsed)
    strategy = COMMAND_STRATEGIES[options.command]
    loading = with_strategy(take(LoadOptions, parsed), options.command, strategy)
    memory = options.memory_bytes

    from mygpt.hub.resolve import find_config

    path = find_config(parsed.get("checkpoint"), access_token=loading.access_token, revision=loading.revision)

    import_torch()
    from mygpt.loading.build import limit_context
    from mygpt.loading.memory_check import remedies
    from mygpt.loading.plan import make_plan, read_architecture

    config, stored = read_architecture(path)
    config = limit_context(config, loading.context_length)
    work = make_workload(options, config)
    if options.compare:
        rows = compare(config, stored, loading, work, memory)
        _show({"plans": rows}, lambda: [_comparison(rows, memory)], as_json=options.json)
        return
    plan = make_plan(config, stored, loading, work, memory)
    content = as_json(plan, options, work)
    if plan.fits is False:
        content["remedies"] = remedies(config, stored, loading, work, memory)
    if options.command == "chat":
        from mygpt.model.kv_cache import GROWTH

        start = replace(work, slots=min(options.prompt_tokens + GROWTH, work.slots))
        first = make_plan(config, stored, loading, start, memory)
        content["kv_cache_start_bytes"] = sum(device.kv_cache_bytes for device in first.devices)
    _show(content, lambda: _described(content, options.device_memory), as_json=options.json)


def make_workload(options: PlanOptions, config: Config) -> Workload:
    """The workload of the options; InputError if a prompt does not fit the model's context."""
    from mygpt.loading.generation_config import CHAT_TOKENS
    from mygpt.loading.workspace import Workload

    context, prompt = config.context_length, options.prompt_tokens
    if prompt >= context:
        raise InputError(
            f"--prompt_tokens {prompt} do not fit the model's context of {context} tokens with room for an answer"
        )
    new = context if options.command == "chat" else options.max_new_tokens or CHAT_TOKENS
    return Workload(prompt, min(prompt + new, context), options.batch_size, options.num_samples)


def as_json(plan: Plan, options: PlanOptions, work: Workload) -> dict[str, Any]:
    """A plan as the object that is printed."""
    content: dict[str, Any] = {
        "command": options.command,
        "strategy": plan.strategy,
        "precision": plan.precision,
        "quantize": plan.quantize,
        "devices": [
            {
                "device": device.device,
                "weights_bytes": device.weights_bytes,
                "kv_cache_bytes": device.kv_cache_bytes,
                "workspace_bytes": device.workspace_bytes,
                "total_bytes": device.total_bytes,
            }
            for device in plan.devices
        ],
        "kv_cache_tokens": work.slots,
        "host_peak_bytes": plan.host_peak_bytes,
        "fits": plan.fits,
        "memories": [
            {"name": room.name, "needed_bytes": room.needed, "free_bytes": int(room.free)}
            for room in plan.rooms or ()
        ],
        "remedies": [],
        "device_counts": list(plan.device_counts),
    }
    if options.bandwidth is not None:
        content["tokens_per_s"] = plan.tokens_per_s(options.bandwidth * 1e9, work.rows)
    return content


def compare(
    config: Config, stored: Scheme | None, loading: LoadOptions, work: Workload, memory: float | None
) -> list[dict[str, Any]]:
    """The fullest device of every command by number of devices and quantization; None where it cannot run."""
    from mygpt.loading.plan import make_plan

    rows = []
    for count in COUNTS:
        commands = COMPARED if count > 1 else (("generate", "auto"),)
        for command, strategy in commands:
            for quantize in QUANTIZATIONS:
                options = replace(
                    loading, devices=count, strategy=strategy, quantize=quantize, cpu_offload=False
                )
                try:
                    plan = make_plan(config, stored, options, work, memory)
                except InputError:
                    largest, fits, precision = None, None, None
                else:
                    largest, fits, precision = plan.largest_bytes, plan.fits, plan.precision
                rows.append(
                    {
                        "command": command,
                        "devices": count,
                        "quantize": quantize,
                        "precision": precision,
                        "largest_bytes": largest,
                        "fits": fits,
                    }
                )
    return rows


def _show(content: dict[str, Any], table: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(content))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    console.print(*table(), sep="\n")


def _described(content: dict[str, Any], device_memory: str | None) -> list[Table | str]:
    from rich.table import Table

    from mygpt.loading.memory_check import one_of

    names = ("weights", "kv_cache", "workspace", "total")
    how = [content["command"], content["strategy"], content["precision"], content["quantize"]]
    table = Table("device", title=" | ".join(filter(None, how)), title_justify="left")
    for name in names:
        table.add_column(name.replace("_", " ").replace("kv", "KV"), justify="right")
    for device in content["devices"]:
        table.add_row(device["device"], *(_gb(device[f"{name}_bytes"]) for name in names))
    lines = [_verdict(content, device_memory)]
    if "kv_cache_start_bytes" in content:
        full = sum(device["kv_cache_bytes"] for device in content["devices"])
        lines.append(
            f"a chat's KV cache starts at {_gb(content['kv_cache_start_bytes'])} and grows to {_gb(full)}, the full "
            f"context of {content['kv_cache_tokens']} tokens; --context_length bounds it"
        )
    counts = [str(count) for count in content["device_counts"]]
    lines += [
        f"host memory while loading: {_gb(content['host_peak_bytes'])}",
        f"generate_tp can use {one_of(counts)} device{'s' if len(counts) > 1 else ''}",
    ]
    if "tokens_per_s" in content:
        lines.append(f"at most {content['tokens_per_s']:.1f} tokens/s at that bandwidth")
    return [table, *lines]


def _verdict(content: dict[str, Any], device_memory: str | None) -> str:
    from mygpt.loading.memory_check import one_of

    if content["fits"] is None:
        return "whether it fits is not known: see --device_memory"
    memory = max(content["memories"], key=lambda memory: memory["needed_bytes"] / memory["free_bytes"])
    needed, free = _gb(memory["needed_bytes"]), _gb(memory["free_bytes"])
    how = f"{needed} of the {free} that are free on {memory['name']}"
    if content["fits"]:
        return f"fits {device_memory} a device" if device_memory else f"fits: it takes {how}"
    remedy = f"use {one_of([*content['remedies'], 'a smaller model'])}"
    if device_memory:
        return f"does not fit {device_memory} a device: {remedy}"
    return f"does not fit: it takes {needed} on {memory['name']} and {free} are free; {remedy}"


def _comparison(rows: list[dict[str, Any]], memory: float | None) -> Table:
    from rich.table import Table

    table = Table("devices", "command")
    precision = next(row["precision"] for row in rows if row["precision"])
    for quantize in QUANTIZATIONS:
        table.add_column(quantize or precision, justify="right")
    for start in range(0, len(rows), len(QUANTIZATIONS)):
        group = rows[start : start + len(QUANTIZATIONS)]
        table.add_row(str(group[0]["devices"]), group[0]["command"], *map(_cell, group))
    says = "yes and no say whether it fits" if memory is not None else "--device_memory says what fits"
    table.caption, table.caption_justify = (
        f"the fullest device's memory; {says}; -: does not work",
        "left",
    )
    return table


def _cell(row: dict[str, Any]) -> str:
    if row["largest_bytes"] is None:
        return "-"
    mark = {True: " yes", False: "  no", None: ""}[row["fits"]]
    return _gb(row["largest_bytes"]) + mark


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 5e6 else f"{size / 1e6:.2f} MB"
