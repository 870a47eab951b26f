"""What is wrong on a machine, as far as the facts of `mygpt doctor` show it, and what to do about it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from mygpt.commands._words import size_text

LITTLE_DISK = 5_000_000_000  # bytes: a model of 2 billion parameters
LITTLE_MEMORY = 2_000_000_000
NEW_DRIVER = 580  # for CUDA 13 (docs.nvidia.com/deploy/cuda-compatibility)
_CACHE_VARIABLES = {
    "huggingface": "HF_HOME",
    "mygpt": "MYGPT_CACHE",
    "kernels": "MYGPT_KERNELS",
    "compile": "TORCHINDUCTOR_CACHE_DIR",
}
Problems = Iterator[tuple[str, str]]


def problems(report: dict[str, Any]) -> list[dict[str, str]]:
    """The problems that the sections of a report show, each with its remedy."""
    rules: tuple[Callable[[dict[str, Any]], Problems], ...]
    rules = (_torch, _packages, _gpus, _kernels, _cpu, _memory, _caches, _hub)
    found: list[tuple[str, str]] = []
    for rule in rules:
        with contextlib.suppress(Exception):  # of what is unknown there is nothing to say
            found.extend(rule(report))
    return [{"problem": problem, "remedy": remedy} for problem, remedy in found]


def _requirements() -> dict[str, Any]:
    from packaging.requirements import Requirement

    parsed = map(Requirement, metadata.requires("mygpt") or ())
    return {
        requirement.name.replace("-", "_"): requirement
        for requirement in parsed
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }


def _pip_torch(index: str) -> str:
    wanted = "torch"
    with contextlib.suppress(Exception):  # mygpt runs from a folder and is not installed
        wanted = str(_requirements()["torch"])
    return f"pip install --force-reinstall '{wanted}' --index-url https://download.pytorch.org/whl/{index}"


def _torch(report: dict[str, Any]) -> Problems:
    if (version := report["versions"]["torch"]).startswith("unknown"):
        yield f"torch cannot be imported: {version}", "pip install --force-reinstall torch"


def _packages(report: dict[str, Any]) -> Problems:
    versions = report["versions"]
    for name, requirement in _requirements().items():
        if name not in versions:
            continue
        version = versions[name] and versions[name].partition(" ")[0]
        if version is None:
            yield f"{name} is not installed", f"pip install '{requirement}'"
        elif version != "unknown" and not requirement.specifier.contains(version, prereleases=True):
            yield f"{name} {version} is not what mygpt needs", f"pip install '{requirement}'"


def _gpus(report: dict[str, Any]) -> Problems:
    torch, nvidia, cuda = report["versions"]["torch"], report["gpus"]["nvidia"], report["gpus"]["cuda"]
    if isinstance(nvidia, list) and nvidia:
        name, driver = nvidia[0]["name"], nvidia[0]["driver"]
        major = driver.partition(".")[0]
        old = major.isdecimal() and int(major) < NEW_DRIVER
        if "(CPU build)" in torch:
            yield (
                f"torch cannot use the {name}: this is its build for CPUs",
                _pip_torch("cu126" if old else "cu130"),
            )
        elif old and "(CUDA 13" in torch:
            remedy = f"update the driver to {NEW_DRIVER} or newer, or {_pip_torch('cu126')}"
            yield f"the NVIDIA driver {driver} is too old for {torch}", remedy
        elif cuda == []:
            yield (
                f"torch does not see the {name}",
                "unset CUDA_VISIBLE_DEVICES, or reboot after a driver update",
            )
    for gpu in cuda if isinstance(cuda, list) else ():
        if gpu["in_this_torch"] is False:
            problem = f"this torch has no code for the {gpu['name']} (compute capability {gpu['compute_capability']})"
            yield problem, f"another build may have: {_pip_torch('cu126')}"


def _kernels(report: dict[str, Any]) -> Problems:
    run = report["kernels"]["run"]
    why = run.removeprefix("none: ")
    if why == "no C compiler":
        yield (
            "no C compiler, so models run slower on the CPU",
            "install gcc (apt install gcc, dnf install gcc), or set CC",
        )
    elif run.startswith("unknown (MYGPT_ISA"):
        yield run.removeprefix("unknown (").removesuffix(")"), "unset MYGPT_ISA, or set it to one of these"
    elif "MYGPT_ISA" in run:
        yield f"no kernels, so models run slower on the CPU: {why}", "unset MYGPT_ISA"
    elif run.startswith("none: ") and why != "not Linux":
        remedy = "report this"
        if why.endswith(" failed"):
            remedy = "update gcc, or set CC to another compiler"
        elif "[Errno" in why:
            remedy = "set MYGPT_KERNELS to a folder that can be written"
        yield f"no kernels, so models run slower on the CPU: {why}", remedy


def _cpu(report: dict[str, Any]) -> Problems:
    threads, allowed = report["cpu"]["torch_threads"], report["cpu"]["container_cores"]
    if allowed is not None and threads > max(1, allowed):
        yield (
            f"torch runs {threads} threads, but the container has {allowed:g} cores",
            f"set OMP_NUM_THREADS={max(1, int(allowed))}",
        )


def _memory(report: dict[str, Any]) -> Problems:
    if (free := report["memory"]["free_bytes"]) is not None and free < LITTLE_MEMORY:
        yield f"only {size_text(free)} of memory are free", "end other programs; 'mygpt plan' says what fits"


def _caches(report: dict[str, Any]) -> Problems:
    told = set()
    for label, variable in _CACHE_VARIABLES.items():
        cache = report["caches"].get(label)
        if not isinstance(cache, dict):
            continue
        if not cache["writable"]:
            yield f"{cache['path']} cannot be written", f"set {variable} to a folder that can be"
            continue
        free = cache["disk_free_bytes"]
        if isinstance(free, int) and free < LITTLE_DISK and free not in told:
            told.add(free)  # once a disk
            remedy = f"'mygpt list' shows what 'mygpt rm' can remove; {variable} moves the folder"
            yield f"only {size_text(free)} are free on the disk of {cache['path']}", remedy


def _hub(report: dict[str, Any]) -> Problems:
    hub = report["hub"]
    if hub["answers"] == "no (status 401)":
        yield f"{hub['endpoint']} refuses your token", "run 'hf auth login', or unset HF_TOKEN"
    elif hub["answers"].startswith("no ("):
        remedy = "check the connection and HTTPS_PROXY; HF_ENDPOINT names a mirror; models on this machine run anyway"
        if hub["default_model"].startswith("not"):
            remedy += "; the default model comes from PyPI"
        yield f"{hub['endpoint']} does not answer: {hub['answers']}", remedy
