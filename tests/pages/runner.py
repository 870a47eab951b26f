"""Runs the commands of the pages in this process, with the default model or with a tiny one behind a fake Hub."""

import codecs
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

import mygpt.llm
from mygpt.__main__ import main
from mygpt.hub.default_model import REPO as DEFAULT_REPO
from mygpt.llm import LLM
from tests.fake_hub import Repo, serve
from tests.loading.test_plan import CONFIGS
from tests.models import CHAT_TEMPLATE, edit_json, write_model
from tests.pages.collect import ROOT, Block, Command, blocks

# The commands that load a model and write text.
GENERATING = ("generate", "chat", "generate_sequentially", "generate_tp")
# Options that ask for devices which the machine of the tests has not, or for minutes of compiling.
DEVICE_OPTIONS = ("--devices", "--num_nodes", "--strategy", "--accelerator", "--compile")
# Words of a page that stand for something, and what a test puts there.
PLACEHOLDERS = {
    "COMMAND": "generate",
    "FOLDER": "new-folder",
    "MODEL": "my-model",
    "REPO": "owner/name",
    "SMALL_MODEL": "my-model",
    "SOURCE": "my-model",
    "TARGET": "new-folder",
    "hf_...": "hf_token",
}
FOLDERS = ("my-model", "llama-nf4")  # of the pages' examples, in the folder where a test runs
GGUF_FILES = ("model.gguf", "model.Q4_K_M.gguf", "SmolLM2-135M-Instruct-Q4_K_M.gguf")
TRANSCRIPTS = ("chat.json", "paris.json")
# Repositories whose real architecture `mygpt plan` is asked about.
PUBLISHED = {"meta-llama/Llama-2-70b-chat-hf": "llama-2-70b", "tiiuae/falcon-40b": "falcon-40b"}
NEW_TOKENS = 4  # of each answer, where a page does not show it


class EveryRepo(dict[str, Repo]):
    """A Hub that has whatever is asked for: a tiny Llama; the real config.json of those that are planned."""

    def __init__(self, tiny: Path) -> None:
        super().__init__()
        files = {path.name: path.read_bytes() for path in tiny.iterdir()}
        self._tiny = Repo(files, ("main", "step1000"))
        for repo, name in PUBLISHED.items():
            self[repo] = Repo({**files, "config.json": json.dumps(CONFIGS[name]).encode()})

    def get(self, name: str, default: Any = None) -> Repo:  # type: ignore[override]
        return super().get(name, self._tiny)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that can be asked not to think."""
    folder = write_model(tmp_path_factory.mktemp("pages") / "tiny", max_position_embeddings=32_768)
    thinking = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    edit_json(folder / "tokenizer_config.json", chat_template=CHAT_TEMPLATE + thinking)
    return folder


@pytest.fixture(scope="module")
def hub_url(tiny: Path) -> Iterator[str]:
    with serve() as hub:
        hub.repos = EveryRepo(tiny)
        yield hub.url


@pytest.fixture(scope="module")
def loader() -> Any:
    """`load`, which keeps the last models: most commands of the pages load the default model as it is."""
    return lru_cache(maxsize=2)(mygpt.llm.load)


@pytest.fixture
def place(
    tmp_path: Path,
    tiny: Path,
    hub_url: str,
    loader: Any,
    smollm2: Path,
    smollm2_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with the files that the pages speak of; the Hub is the fake one, the caches are empty ones.

    The default model is found in `checkpoints/`, so that nothing can delete the cache that the tests share.
    """
    monkeypatch.setattr(constants, "ENDPOINT", hub_url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MYGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mygpt.llm, "load", loader)
    work = tmp_path / "work"
    default = work / "checkpoints" / DEFAULT_REPO
    default.parent.mkdir(parents=True)
    default.symlink_to(smollm2, target_is_directory=True)
    for name in FOLDERS:
        (work / name).symlink_to(tiny, target_is_directory=True)
    for name in GGUF_FILES:
        (work / name).symlink_to(smollm2_gguf)
    for name in TRANSCRIPTS:
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
        (work / name).write_text(json.dumps({"messages": turns, "settings": {}}))
    (work / "prompts.jsonl").write_text(example_prompts())
    (work / "config_hub").symlink_to(ROOT / "config_hub", target_is_directory=True)
    monkeypatch.chdir(work)
    return work


def example_prompts() -> str:
    """The rows of the tutorial's example of `--prompts`, with shorter answers."""
    page = ROOT / "tutorials" / "inference.md"
    rows = next(block.content for block in blocks(page) if block.language == "json")
    return re.sub(r'"max_new_tokens": \d+', f'"max_new_tokens": {NEW_TOKENS}', rows)


def way_of(command: Command) -> str:
    """How a test can try a command of mygpt."""
    arguments = command.arguments or ()
    if command.inline and len(arguments) == 1 and not arguments[0].startswith("-"):
        return "named"  # a word of a sentence, such as `mygpt chat`
    if arguments[:1] and arguments[0] in GENERATING:
        preset = options_of(arguments[arguments.index("--config") + 1]) if "--config" in arguments else {}
        named = {word.partition("=")[0] for word in arguments} | {f"--{name}" for name in preset}
        several = arguments[0] in ("generate_tp", "generate_sequentially") or command.words[0] != "mygpt"
        if several or named & set(DEVICE_OPTIONS):
            return "up to loading"
        no_checkpoint = len(arguments) == 1 or arguments[1].startswith("-")
        if (no_checkpoint and "checkpoint" not in preset) or arguments[1:2] == (DEFAULT_REPO,):
            return "with the default model"
    return "with a tiny model"


def options_of(preset: str) -> dict[str, Any]:
    """The options in a file of config_hub/."""
    content: dict[str, Any] = yaml.safe_load((ROOT / preset).read_text(encoding="utf-8"))
    return content


def attempt(command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Run a command as `way_of` says; it must end with exit code 0.

    What is told to load a model on devices that are not here goes as far as that: everything it was given is
    parsed and checked by then.
    """
    way = way_of(command)
    arguments = [PLACEHOLDERS.get(word, word) for word in command.arguments or ()]
    for name, value in command.environment:
        monkeypatch.setenv(name, value)
    shown = "--temperature 0" in command.text and command.output and "chat" not in command.words[:2]
    shown = shown or (command.piped and command.output)
    if way == "named":
        arguments.append("--help")
    elif arguments[0] in GENERATING and not shown and "--print_config" not in arguments:
        arguments += ["--max_new_tokens", str(NEW_TOKENS)]
    elif arguments[0] == "convert":
        make_room(Path(arguments[2]))
    elif arguments[0] == "rm":
        assert main(["download", arguments[1]]) == 0
    loads: list[Any] = []
    with monkeypatch.context() as patch:
        if way == "up to loading":
            patch.setattr(LLM, "load", lambda *args, **options: (loads.append(options), sys.exit(0)))
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(standard_input(command).encode())))
        code = main(arguments)
    out, err = capfd.readouterr()
    assert code == 0, f"mygpt {' '.join(arguments)}\n{err}"
    assert len(loads) == (way == "up to loading"), f"it ended before it loaded a model:\n{err}"
    for line in command.output.splitlines() if shown else ():
        assert line in out


def make_room(target: Path) -> None:
    """What `convert` is to write must not be there yet."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)


def standard_input(command: Command) -> str:
    """What is piped into a command, or typed at its prompt."""
    if command.piped[:1] in (("echo",), ("printf",)):
        return codecs.decode(command.piped[1], "unicode_escape") + "\n"
    return "Hello, my name is\n"


@contextmanager
def short_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answers of the Python API end after a few tokens."""
    from mygpt.engine.engine import Engine

    batch = Engine.batch

    def short(self: Engine, prompts: Any, sampling: Any, max_new_tokens: int, **options: Any) -> Any:
        return batch(self, prompts, sampling, min(max_new_tokens, NEW_TOKENS), **options)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "batch", short)
        yield


def execute(page_blocks: list[Block]) -> Mapping[str, Any]:
    """Run the Python of a page, one block after another."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in page_blocks:
        exec(compile(block.content, block.page, "exec"), names)
    return names


__all__ = ["attempt", "execute", "hub_url", "loader", "place", "short_answers", "tiny", "way_of"]
