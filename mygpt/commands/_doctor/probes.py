"""The probes of `mygpt doctor`. Each is guarded by itself: one that fails says `unknown` and why."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import mygpt
from mygpt.commands._doctor import machine
from mygpt.commands._doctor.private import private
from mygpt.commands._doctor.remedies import problems
from mygpt.hub.inventory import folder_size, hub_cache
from mygpt.hub.reach import HubCheck, default_model, hub_settings
from mygpt.hub.resolve import CHECKPOINTS
from mygpt.paths import cache_folder, find_program

PACKAGES = (
    *("lightning", "bitsandbytes", "huggingface_hub", "tokenizers", "safetensors", "transformers", "gguf"),
    *("numpy", "jsonargparse", "rich", "prompt_toolkit", "sentencepiece", "pip"),
)
_FLAGS = re.compile(r"avx\w*|amx\w*|fma|f16c|asimd\w*|sve\w*|bf16|i8mm")
_VARIABLES = re.compile(
    r"(MYGPT|HF|HUGGING_?FACE\w*|OMP|MKL|CUDA|NCCL|PYTORCH|TORCH\w*|ATEN|ONEDNN|TRANSFORMERS)_\w+"
    r"|\w+_PROXY|XDG_CACHE_HOME|CC|CXX|LD_PRELOAD",
    re.IGNORECASE,
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|PROXY", re.IGNORECASE)


def examine() -> dict[str, Any]:
    """All that is found: sections of facts, and `problems`, each with its remedy."""
    hub = HubCheck()  # meanwhile torch is imported
    sections: dict[str, Callable[[], Any]] = {
        "versions": _versions,
        "system": _system,
        "cpu": _cpu,
        "memory": _memory,
        "gpus": _gpus,
        "kernels": _kernels,
        "caches": _caches,
        "hub": lambda: {
            "answers": attempt(hub.answer),
            **hub_settings(),
            "default_model": attempt(default_model),
        },
        "environment": _environment,
    }
    report = {name: attempt(section) for name, section in sections.items()}
    found: dict[str, Any] = private({**report, "problems": problems(report)})
    return found


def attempt(probe: Callable[[], Any]) -> Any:
    """What a probe returns, or `unknown` and why, whatever it raises."""
    try:
        return probe()
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        return f"unknown ({why or type(error).__name__})"


def _versions() -> dict[str, Any]:
    return {
        "mygpt": mygpt.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "torch": attempt(_torch_version),
        **{name: attempt(partial(_version, name)) for name in PACKAGES},
    }


def _torch_version() -> str:
    import torch

    hip = getattr(torch.version, "hip", None)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {hip}" if hip else "CPU"
    return f"{torch.__version__} ({build} build)"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _system() -> dict[str, Any]:
    return {"os": attempt(machine.system), "machine": platform.machine()}


def _cpu() -> dict[str, Any]:
    return {
        "name": attempt(_cpu_name),
        "levels": attempt(_levels),
        "instruction_sets": attempt(_instruction_sets),
        "cores": os.cpu_count(),
        "usable_cores": attempt(machine.usable_cores),
        "container_cores": attempt(machine.container_cores),
        "torch_threads": attempt(_threads),
        "read_gb_per_s": attempt(_cpu_bandwidth),
    }


def _processor() -> dict[str, str]:
    from mygpt.kernels.cpu import isa

    pairs = (line.partition(":") for line in isa.processor())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_name() -> str:
    return _processor().get("model name") or machine.cpu_name()


def _levels() -> str:
    from mygpt.kernels.cpu import isa

    return ", ".join(isa.machine_levels()) or "none"


def _instruction_sets() -> str:
    found = _processor()
    flags = f"{found.get('flags', '')} {found.get('Features', '')}".split()
    return " ".join(sorted(flag for flag in flags if _FLAGS.fullmatch(flag))) or "none known"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _free_memory() -> int | None:
    from mygpt.parallel.host_memory import free_host_bytes

    return free_host_bytes()


def _cpu_bandwidth() -> float:
    from mygpt.commands._doctor.bandwidth import cpu_bandwidth

    return cpu_bandwidth(os.cpu_count() or 1, _free_memory())


def _memory() -> dict[str, Any]:
    return {
        "total_bytes": attempt(machine.total_memory),
        "free_bytes": attempt(_free_memory),
        "container_limit_bytes": attempt(machine.container_memory),
    }


def _gpus() -> dict[str, Any]:
    return {
        "nvidia": attempt(machine.nvidia),
        "cuda": attempt(_cuda),
        "mps": attempt(_mps),
    }


def _cuda() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [_cuda_device(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]


def _cuda_device(device: Any) -> dict[str, Any]:
    import torch

    from mygpt.commands._doctor.bandwidth import gpu_bandwidth

    def properties() -> Any:
        return torch.cuda.get_device_properties(device)

    return {
        "name": attempt(lambda: properties().name),
        "total_bytes": attempt(lambda: properties().total_memory),
        "free_bytes": attempt(lambda: torch.cuda.mem_get_info(device)[0]),
        "compute_capability": attempt(lambda: f"{properties().major}.{properties().minor}"),
        "in_this_torch": attempt(lambda: _has_code(properties(), torch.cuda.get_arch_list())),
        "copy_gb_per_s": attempt(lambda: gpu_bandwidth(device)),
    }


def _has_code(properties: Any, built_for: list[str]) -> bool:
    """Whether torch was built for a GPU: code of its major version (`sm_80`), or PTX no newer (`compute_80`)."""
    own = (properties.major, properties.minor)
    for name in built_for:
        if parts := re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name):
            target = (int(parts[2]), int(parts[3]))
            if target <= own and (parts[1] == "compute" or target[0] == own[0]):
                return True
    # AMD's have names of another kind
    return getattr(properties, "gcnArchName", "").split(":")[0] in built_for


def _mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


def _kernels() -> dict[str, Any]:
    return {
        "run": attempt(_describe),
        "c_compiler": attempt(lambda: _compiler("CC", "cc", "gcc")),
        "c++_compiler": attempt(lambda: _compiler("CXX", "g++", "clang++")),
    }


def _describe() -> str:
    from mygpt import kernels

    return kernels.describe()


def _compiler(variable: str, *names: str) -> str | None:
    """The first line of the `--version` of the first that is there."""
    for name in (os.environ.get(variable, ""), *names):
        with contextlib.suppress(ValueError):  # quotes that do not close
            program, *options = shlex.split(name) or [""]
            if found := find_program(program):
                command = [found, *options, "--version"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=3, check=False)
                return f"{program}: {(done.stdout.splitlines() or ['no version'])[0]}"
    return None


def _caches() -> dict[str, Any]:
    folders = {"huggingface": hub_cache(), "mygpt": cache_folder()}
    if CHECKPOINTS.is_dir():
        folders["checkpoints"] = CHECKPOINTS
    for label, variable in (("kernels", "MYGPT_KERNELS"), ("compile", "TORCHINDUCTOR_CACHE_DIR")):
        if os.environ.get(variable):
            folders[label] = Path(os.environ[variable]).expanduser()
    return {label: attempt(partial(_cache, folder)) for label, folder in folders.items()}


def _cache(folder: Path) -> dict[str, Any]:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return {
        "path": str(folder),
        "size_bytes": attempt(lambda: folder_size(folder, timeout_s=1)[0]),
        "writable": _writable(there),
        "disk_free_bytes": attempt(lambda: shutil.disk_usage(there).free),
    }


def _writable(folder: Path) -> bool:
    """By writing: permissions say nothing of a disk that is read-only or full."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError:
        return False
    return True


def _environment() -> dict[str, str]:
    """The variables that change what mygpt does; of those that may hold secrets, only that they are set."""
    names = sorted(name for name in os.environ if _VARIABLES.fullmatch(name) and os.environ[name])
    return {name: "set (not shown)" if _SECRET.search(name) else os.environ[name] for name in names}
