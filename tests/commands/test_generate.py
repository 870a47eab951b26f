"""`mygpt generate` and the Python API on tiny models of each family: what is written, and where to."""

import dataclasses
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from mygpt import LLM, kernels
from mygpt.__main__ import main
from mygpt.errors import InputError
from mygpt.options import Sampling
from mygpt.parallel.rank_env import PARENT_PID_VARIABLE, started_as_worker
from tests.models import CHAT_TEMPLATE, CONTEXT, EOS, FAMILIES, edit_json, write_model

DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0},
    "max_position_embeddings": CONTEXT // 4,  # tokens; from there on the cache is computed anew
}
JSON_KEYS = {
    "prompt", "text", "token_ids", "finish_reason", "seed", "prompt_tokens", "new_tokens", "load_s", "ttft_s",
    "tokens_per_s", "peak_memory_bytes", "device", "precision", "quantize", "kernels",
}  # fmt: skip
COMMAND = [sys.executable, "-m", "mygpt", "generate"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family; llama's has a chat template."""
    root = tmp_path_factory.mktemp("models")
    made = {family: write_model(root / family, family, chat=family == "llama") for family in FAMILIES}
    return {**made, "dynamic": write_model(root / "dynamic", chat=False, **DYNAMIC)}


@pytest.fixture(scope="module")
def llms(folders: dict[str, Path]) -> dict[str, LLM]:
    """The same, loaded."""
    return {name: load(folder) for name, folder in folders.items()}


@pytest.fixture(params=[*FAMILIES, "dynamic"])
def llm(request: pytest.FixtureRequest, llms: dict[str, LLM]) -> LLM:
    """Each of them."""
    return llms[request.param]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run `mygpt generate` in float32 on the CPU; gives standard output and standard error."""

    def generate(folder: Path | None, *options: object) -> tuple[str, str]:
        capfd.readouterr()
        checkpoint = [] if folder is None else [str(folder)]
        fixed = ["--precision", "32-true", "--accelerator", "cpu"]
        code = main(["generate", *checkpoint, *fixed, *map(str, options)])
        out, err = capfd.readouterr()
        assert code == 0, err
        return out, err

    return generate


@pytest.fixture
def run_json(run: Callable[..., tuple[str, str]]) -> Callable[..., list[dict[str, Any]]]:
    """The same with `--json true`; gives the objects."""

    def generate(folder: Path | None, *options: object) -> list[dict[str, Any]]:
        out, _ = run(folder, *options, "--json", "true")
        return [json.loads(line) for line in out.split("\n")[:-1]]

    return generate


def load(folder: Path) -> LLM:
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


def random_ids(random: random.Random, llm: LLM, length: int) -> list[int]:
    return [random.randrange(llm.config.vocab_size) for _ in range(length)]


def ids_of(
    llm: LLM, prompts: Sequence[list[int]], seeds: Sequence[int], new: int = 8, **sampling: Any
) -> list[list[int]]:
    """The new ids of prompts that run together."""
    batch = llm.engine.batch(prompts, Sampling(**sampling), new, seeds=seeds)
    for _ in batch:
        pass
    return [completion.sequence.new_ids for completion in batch.completions]


Run = Callable[..., tuple[str, str]]
RunJson = Callable[..., list[dict[str, Any]]]


# The command line


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_alone_is_on_standard_output(
    run: Run, llms: dict[str, LLM], folders: dict[str, Path], family: str
) -> None:
    out, err = run(folders[family], "--prompt", "Hello", "--seed", 3, "--max_new_tokens", 12)
    assert out == llms[family].generate("Hello", seed=3, max_new_tokens=12) + "\n"
    prompt_tokens = 26 if family == "llama" else 5
    pattern = (
        rf"cpu 32-true \| kernels {re.escape(kernels.describe())} \| loaded in \d+\.\d\d s \| "
        rf"{prompt_tokens} prompt tokens, first token after \d+\.\d\d s \| "
        r"12 new tokens, \d+\.\d tokens/s \| peak memory \d+\.\d\d GB \| seed 3\n"
        r"the answer was cut after 12 tokens: --max_new_tokens 24 lets it go on\n"
    )
    assert re.fullmatch(pattern, err)


@pytest.mark.parametrize("family", FAMILIES)
def test_json_says_everything(
    run_json: RunJson, llms: dict[str, LLM], folders: dict[str, Path], family: str
) -> None:
    options = ("--prompt", "Hello", "--seed", 3, "--max_new_tokens", 12, "--raw_prompt", "true")
    (sample,) = run_json(folders[family], *options)
    assert set(sample) >= JSON_KEYS
    assert sample["prompt"] == "Hello"
    assert sample["text"] == llms[family].tokenizer.decode(sample["token_ids"])
    assert (sample["new_tokens"], len(sample["token_ids"]), sample["prompt_tokens"]) == (12, 12, 5)
    assert (sample["finish_reason"], sample["seed"]) == ("length", 3)
    assert (sample["device"], sample["precision"], sample["quantize"]) == ("cpu", "32-true", None)
    assert sample["kernels"] == kernels.describe()
    for key in ("load_s", "ttft_s", "tokens_per_s", "peak_memory_bytes"):
        assert sample[key] > 0, key


def test_samples_follow_their_seeds_alone(run_json: RunJson, run: Run, folders: dict[str, Path]) -> None:
    """Sample i is what a run of its own with the seed + i gives; the same seed gives the same."""
    options = ("--prompt", "Hello", "--max_new_tokens", 16)
    three = run_json(folders["llama"], *options, "--num_samples", 3, "--seed", 40)
    again = run_json(folders["llama"], *options, "--num_samples", 3, "--seed", 40)
    single = [run_json(folders["llama"], *options, "--seed", 40 + i)[0] for i in range(3)]
    ids = [sample["token_ids"] for sample in three]
    assert ids == [sample["token_ids"] for sample in again] == [sample["token_ids"] for sample in single]
    assert len(set(map(tuple, ids))) == 3
    assert [sample["seed"] for sample in three] == [40, 41, 42]
    out, err = run(folders["llama"], *options, "--num_samples", 3, "--seed", 40)
    assert out == "".join(sample["text"] + "\n" for sample in three)
    assert "seed 40 to 42" in err


def test_without_a_seed_chance_decides_and_the_seed_is_told(
    run_json: RunJson, folders: dict[str, Path]
) -> None:
    options = ("--prompt", "Hello", "--max_new_tokens", 16)
    first, second = (run_json(folders["llama"], *options)[0] for _ in range(2))
    assert first["token_ids"] != second["token_ids"]
    repeated = run_json(folders["llama"], *options, "--seed", first["seed"])[0]
    assert repeated["token_ids"] == first["token_ids"]


def test_greedy_needs_no_seed(run: Run, folders: dict[str, Path]) -> None:
    options = ("--prompt", "Hello", "--temperature", 0)
    assert run(folders["falcon"], *options)[0] == run(folders["falcon"], *options, "--seed", 9)[0]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_file_of_prompts_is_its_rows_one_by_one(
    run: Run,
    run_json: RunJson,
    llms: dict[str, LLM],
    folders: dict[str, Path],
    tmp_path: Path,
    batch_size: int,
) -> None:
    """Rows of every length; U+2028 is a line's end to Python but not to JSON."""
    messages = [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Who are you?"},
    ]
    prompts = ["a", "A much longer prompt\u2028of two lines", messages, "", "Grüße 🌍", messages[1:2]]
    rows = [{"prompt": p} if isinstance(p, str) else {"messages": p} for p in prompts]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    options = ("--max_new_tokens", 10, "--temperature", 0)
    samples = run_json(folders["llama"], "--prompts", file, "--batch_size", batch_size, *options)
    assert [sample["prompt"] for sample in samples] == prompts
    for sample, prompt in zip(samples, prompts, strict=True):
        ids = llms["llama"].encode(prompt)
        assert sample["token_ids"] == llms["llama"].generate_ids(ids, max_new_tokens=10, temperature=0.0)
        assert sample["prompt_tokens"] == len(ids)
    out, err = run(folders["llama"], "--prompts", file, "--batch_size", batch_size, *options)
    assert out == "\n".join(sample["text"] + "\n" for sample in samples)
    assert err.count("cpu 32-true") == -(-6 // batch_size)  # a line of statistics a batch


def test_a_file_of_prompts_with_samples(run_json: RunJson, folders: dict[str, Path], tmp_path: Path) -> None:
    """Each prompt's samples stand together, and every prompt begins with the same seed."""
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '\ufeff{"prompt": "a"}\r\n{"prompt": "bc"}\r\n', encoding="utf-8"
    )  # as Windows' editors do
    samples = run_json(
        folders["llama"], "--prompts", file, "--num_samples", 2, "--seed", 5, "--max_new_tokens", 6
    )
    assert [(sample["prompt"], sample["seed"]) for sample in samples] == [
        ("a", 5),
        ("a", 6),
        ("bc", 5),
        ("bc", 6),
    ]
    alone = run_json(folders["llama"], "--prompt", "bc", "--seed", 6, "--max_new_tokens", 6)[0]
    assert samples[3]["token_ids"] == alone["token_ids"]


def test_stop_strings_end_the_text_and_are_no_part_of_it(
    run_json: RunJson, run: Run, folders: dict[str, Path]
) -> None:
    options = ("--prompt", "Hello", "--seed", 1, "--max_new_tokens", 60)
    whole = run_json(folders["llama"], *options)[0]
    text = whole["text"]
    stop = text[20:22]
    stops = json.dumps(["never there", stop])
    sample = run_json(folders["llama"], *options, "--stop", stops)[0]
    assert sample["text"] == text[: text.index(stop)]
    assert sample["finish_reason"] == "stop"
    assert sample["new_tokens"] < whole["new_tokens"] == 60
    assert sample["token_ids"] == whole["token_ids"][: sample["new_tokens"]]
    assert run(folders["llama"], *options, "--stop", stops)[0] == sample["text"] + "\n"


def test_a_full_context_ends_the_text_and_is_told(
    run: Run, run_json: RunJson, folders: dict[str, Path]
) -> None:
    options = ("--prompt", "x" * 120, "--raw_prompt", "true", "--max_new_tokens", 50, "--seed", 1)
    sample = run_json(folders["llama"], *options)[0]
    assert (sample["finish_reason"], sample["new_tokens"]) == ("length", CONTEXT - 120)
    _, err = run(folders["llama"], *options)
    warning = f"the answer was cut after 8 tokens: the model's context of {CONTEXT} tokens is full\n"
    assert err.endswith(warning)
    _, err = run(folders["llama"], *options, "--max_new_tokens", 8)
    assert "warning" not in err


@pytest.mark.parametrize(
    "text", ["null", "123", "yes", "", "[1, 2]", "a: b", "# Title", "~", "-5", "{}", "\n", "é"]
)
def test_a_prompt_is_a_text_whatever_it_looks_like(
    run_json: RunJson, folders: dict[str, Path], text: str
) -> None:
    sample = run_json(folders["llama"], "--prompt", text, "--max_new_tokens", 1)[0]
    assert sample["prompt"] == text
    assert sample["prompt_tokens"] == len(f"<|user|>{text}<|assistant|>".encode())


@pytest.mark.parametrize("text", ["Be kind", "# Rules", "123", "yes", "~"])
def test_a_system_prompt_is_a_text_too(run_json: RunJson, folders: dict[str, Path], text: str) -> None:
    """`# Rules` is a comment in YAML, which the options are read as."""
    sample = run_json(folders["llama"], "--prompt", "Hi", "--sys_prompt", text, "--max_new_tokens", 1)[0]
    assert sample["prompt_tokens"] == len(f"<|system|>{text}<|user|>Hi<|assistant|>".encode())


def test_raw_prompts_go_through_no_template(run_json: RunJson, folders: dict[str, Path]) -> None:
    raw, style, chat = (
        run_json(folders["llama"], "--prompt", "Hi", "--seed", 1, *options)[0]
        for options in (("--raw_prompt", "true"), ("--prompt_style", "raw"), ())
    )
    assert raw["prompt_tokens"] == style["prompt_tokens"] == 2 < chat["prompt_tokens"]
    assert raw["token_ids"] == style["token_ids"] != chat["token_ids"]


@pytest.mark.parametrize(("given", "prompt"), [("Hi\n", "Hi"), ("Hi", "Hi"), ("a\n\nb\n\n", "a\n\nb\n")])
def test_a_prompt_from_standard_input(
    run_json: RunJson,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    prompt: str,
) -> None:
    """Whole, but for the one newline that `echo` adds."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    assert run_json(folders["llama"], "--prompt", "-", "--max_new_tokens", 1)[0]["prompt"] == prompt


def test_options_from_a_file(run_json: RunJson, folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text('prompt: "123"\nseed: 7\nstop: ["#", "\\n"]\nmax_new_tokens: 5\ntop_p: 0.9\n')
    samples = [
        run_json(folders["llama"], "--config", file),
        run_json(
            folders["llama"], "--prompt", 123, "--seed", 7, "--stop", '["#", "\\n"]', "--max_new_tokens", 5,
            "--top_p", 0.9,
        ),
    ]  # fmt: skip
    assert samples[0][0]["token_ids"] == samples[1][0]["token_ids"]
    later = run_json(folders["llama"], "--config", file, "--seed", 8)[0]
    assert (later["seed"], later["prompt"]) == (8, "123")


def test_print_config_is_a_file_for_config(
    run: Run, run_json: RunJson, folders: dict[str, Path], tmp_path: Path
) -> None:
    """The checkpoint too, which is no option: it was lost, and the default model ran in its place."""
    options = (
        "--prompt",
        "# Hi",
        "--sys_prompt",
        "no: 1",
        "--seed",
        7,
        "--stop",
        '["#"]',
        "--max_new_tokens",
        5,
    )
    printed, err = run(folders["falcon"], *options, "--prompt_style", "redpajama", "--print_config")
    assert err == ""
    file = tmp_path / "options.yaml"
    file.write_text(printed)
    sample = run_json(None, "--config", file)[0]
    expected = run_json(folders["falcon"], *options, "--prompt_style", "redpajama")[0]
    assert sample["token_ids"] == expected["token_ids"]
    file.write_text(run(None, *options, "--print_config")[0])  # names no checkpoint
    assert run_json(folders["llama"], "--config", file)[0]["prompt_tokens"] != sample["prompt_tokens"]


def test_print_config_keeps_the_token_to_itself(run: Run) -> None:
    assert "hf_secret" not in run(None, "--access_token", "hf_secret", "--print_config")[0]


@pytest.mark.parametrize("flags", [["--help"], ["--version"], ["generate", "--help"], []], ids=str)
def test_what_is_only_printed_is_exit_code_0(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 0
    out, err = capfd.readouterr()
    assert out
    assert err == ""


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_precision_is_honoured(run_json: RunJson, folders: dict[str, Path], precision: str) -> None:
    sample = run_json(folders["falcon"], "--prompt", "Hi", "--precision", precision, "--max_new_tokens", 3)[0]
    assert (sample["precision"], sample["new_tokens"]) == (precision, 3)
    llm = LLM.load(str(folders["falcon"]), precision=precision, accelerator="cpu")
    assert {p.dtype for p in llm.loaded.model.parameters()} == {
        {"bf16-true": torch.bfloat16, "16-true": torch.float16}[precision]
    }


def test_an_overflow_in_half_precision_is_an_error_with_the_remedy(
    tmp_path: Path, run_json: RunJson, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= 1e6  # float16 ends at 65504
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert run_json(folder, "--prompt", "Hi", "--max_new_tokens", 2)[0]["new_tokens"] == 2
    capfd.readouterr()
    assert main(["generate", str(folder), "--prompt", "Hi", "--precision", "16-true"]) == 1
    assert "bf16-true or 32-true" in capfd.readouterr().err


# As the shell sees it


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that would write for minutes."""
    folder = write_model(tmp_path_factory.mktemp("endless"), chat=False, max_position_embeddings=100_000)
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    return [*COMMAND, str(folder), "--prompt", "Hi", "--max_new_tokens", "90000", "--precision", "32-true"]


def test_ctrl_c_is_exit_code_130_and_leaves_no_process(endless: list[str]) -> None:
    """And the text before it has been shown as it came."""
    with subprocess.Popen(
        endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == b""
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_reader_that_has_enough_is_no_error(endless: list[str]) -> None:
    """As `mygpt generate … | head -c 1`."""
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        subprocess.run(["head", "-c", "1"], stdin=process.stdout, capture_output=True, check=True)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("flags", [["--help"], ["generate", "--help"]], ids=" ".join)
def test_a_reader_that_was_never_there_is_no_error(flags: list[str]) -> None:
    """What is written at the very end fails at the very end."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND[:3], *flags], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_in_and_a_pipe_out(folders: dict[str, Path]) -> None:
    """Text in UTF-8, whatever the locale says."""
    done = subprocess.run(
        [
            *COMMAND,
            str(folders["gpt_neox"]),
            "--prompt",
            "-",
            "--json",
            "true",
            "--max_new_tokens",
            "30",
            "--seed",
            "1",
        ],
        input="Grüße 🌍\n".encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    (line,) = done.stdout.decode().splitlines()
    assert json.loads(line)["prompt"] == "Grüße 🌍"
    statistics, cut = done.stderr.decode().splitlines()
    assert "tokens/s" in statistics and "cut after 30 tokens" in cut


# The Python API


def test_stream_joined_is_generate(llm: LLM) -> None:
    options = {"max_new_tokens": 40, "seed": 4, "temperature": 1.2}
    pieces = list(llm.stream("Hello", **options))
    assert len(pieces) > 5
    assert all(pieces)
    assert "".join(pieces) == llm.generate("Hello", **options)
    ids = llm.generate_ids(llm.encode("Hello"), **options)
    assert "".join(pieces) == llm.tokenizer.decode(ids)


def test_a_string_is_one_user_message(llms: dict[str, LLM]) -> None:
    llm, options = llms["llama"], {"max_new_tokens": 10, "temperature": 0.0}
    message = {"role": "user", "content": "Hello"}
    text = llm.generate("Hello", **options)
    assert text == llm.generate([message], **options)
    assert text == llm.generate("<|user|>Hello<|assistant|>", raw_prompt=True, **options)
    kind = llm.generate([{"role": "system", "content": "Be kind"}, message], **options)
    assert kind == llm.generate("Hello", sys_prompt="Be kind", **options) != text
    assert "system" not in CHAT_TEMPLATE  # the role came from the message


def test_generate_ids_follows_the_logits(llm: LLM) -> None:
    """Greedy, each new id is the most likely one of those with a text after the ids before it."""
    prompt = random_ids(random.Random(0), llm, 28)
    new = llm.generate_ids(prompt, max_new_tokens=10, temperature=0.0)
    logits = llm.logits([prompt + new])
    assert logits.shape == (1, 38, llm.config.vocab_size)
    assert (logits.dtype, logits.device.type) == (torch.float32, "cpu")
    steps = [llm.logits([prompt + new[:n]])[0, -1, : llm.tokenizer.vocab_size] for n in range(10)]
    assert new == [int(step.argmax()) for step in steps]
    assert torch.equal(llm.logits(torch.tensor([prompt + new])), logits)


def test_the_tokenizer_adds_nothing(llms: dict[str, LLM]) -> None:
    tokenizer = llms["llama"].tokenizer
    for text in ("", "Hello", " 🌍 grüßt"):
        assert len(tokenizer.encode(text)) == len(text.encode())
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_config_is_frozen(llm: LLM) -> None:
    assert (llm.config.vocab_size, llm.config.context_length) == (320, CONTEXT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        llm.config.n_heads = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        llm.config.rope.theta = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "call",
    [
        lambda llm: llm.generate_ids([]),
        lambda llm: llm.generate_ids([320]),
        lambda llm: llm.generate_ids([-1]),
        lambda llm: llm.generate_ids([0] * CONTEXT),
        lambda llm: llm.generate_ids([0], max_new_tokens=0),
        lambda llm: llm.generate_ids([0], temperature=-1.0),
        lambda llm: llm.generate_ids([0], seed=-1),
        lambda llm: llm.logits([[0] * (CONTEXT + 1)]),
        lambda llm: llm.logits([0]),
        lambda llm: llm.logits(torch.zeros(1, 0, dtype=torch.long)),
        lambda llm: llm.logits([[320]]),
        lambda llm: llm.generate("x", stop="###"),
        lambda llm: llm.generate("x", stop=[""]),
        lambda llm: llm.generate([]),
        lambda llm: llm.generate("", raw_prompt=True),
        lambda llm: llm.generate("x", sys_prompt="y", raw_prompt=True),
        lambda llm: LLM.load("/nowhere"),
        lambda llm: LLM.load("/nowhere", precision="8-bit"),
    ],
)
def test_what_cannot_be_used_is_an_input_error(llms: dict[str, LLM], call: Callable[[LLM], object]) -> None:
    with pytest.raises(InputError):
        call(llms["llama"])


def test_without_a_tokenizer_there_are_ids(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    llm = load(folder)
    assert len(llm.generate_ids([1, 300], max_new_tokens=5, seed=0)) == 5
    with pytest.raises(InputError, match="no tokenizer"):
        llm.generate("x")
    with pytest.raises(InputError, match="no tokenizer"):
        llm.tokenizer.encode("x")


# Sampling, as far as the model takes part in it


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 5.0, "top_k": 0}], ids=str)
def test_ids_without_a_text_are_never_sampled(tmp_path: Path, options: dict[str, Any]) -> None:
    """Of a model that wants nothing else: 63 rows of its embedding are padding."""
    folder = write_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    head = weights["lm_head.weight"].clone()
    head[257:] *= 1000
    (folder / "model.safetensors").unlink()
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors")
    llm = load(folder)
    prompt = [1, 2, 3]
    new = llm.generate_ids(prompt, max_new_tokens=60, seed=0, **options)
    assert llm.logits([prompt + new])[0].argmax(-1).min() >= 257
    assert max(new) < 257


def test_any_end_token_ends_the_text(tmp_path: Path, run_json: RunJson) -> None:
    """`config.json`, `generation_config.json` and the tokenizer may each name their own, as a number or a list."""
    folder = write_model(tmp_path / "model", chat=False)
    options = ("--prompt", "Hello", "--seed", 5, "--max_new_tokens", 30)
    ids = run_json(folder, *options)[0]["token_ids"]
    ends = {"config.json": [ids[20], 300], "generation_config.json": ids[10]}
    assert ids.index(ids[10]) == 10
    for file, end in ends.items():
        edit_json(folder / file, eos_token_id=end)
    llm = load(folder)
    assert llm.loaded.stop_ids == {ids[10], ids[20], 300, llm.tokenizer.token_to_id(EOS)}
    sample = run_json(folder, *options)[0]
    assert sample["token_ids"] == ids[:11]
    assert (sample["finish_reason"], sample["new_tokens"]) == ("stop", 11)
    assert sample["text"] == llm.tokenizer.decode(ids[:10])
    exactly = run_json(folder, *options, "--max_new_tokens", 11)[0]  # the last that is allowed
    assert exactly["finish_reason"] == "stop"
    assert run_json(folder, *options, "--max_new_tokens", 10)[0]["finish_reason"] == "length"


def test_a_repetition_penalty_keeps_ids_from_coming_again(llms: dict[str, LLM]) -> None:
    llm, prompt = llms["falcon"], [7, 8, 9, 7]
    plain = llm.generate_ids(prompt, max_new_tokens=40, temperature=0.0)
    assert len({*plain}) < 40
    penalized = llm.generate_ids(prompt, max_new_tokens=40, temperature=0.0, repetition_penalty=1e9)
    assert len({*penalized, *prompt}) == 43


# Batches


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=5),
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([0.0, 1.0]),
    chunk=st.sampled_from([5, 16, 1024]),
)
def test_each_row_of_a_batch_is_its_own_run(
    llms: dict[str, LLM], lengths: list[int], seed: int, temperature: float, chunk: int
) -> None:
    """Whatever the lengths of the prompts beside it, and in however many pieces they are prefilled."""
    for llm in llms.values():
        prompts = [random_ids(random.Random(seed + i), llm, length) for i, length in enumerate(lengths)]
        seeds = [seed + i for i in range(len(prompts))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mygpt.engine.prefill.PREFILL_CHUNK", chunk)
            together = ids_of(llm, prompts, seeds, temperature=temperature)
        for prompt, one, ids in zip(prompts, seeds, together, strict=True):
            assert ids_of(llm, [prompt], [one], temperature=temperature) == [ids]


def test_neighbours_that_end_early_or_run_long_change_nothing(llm: LLM) -> None:
    """A full context ends the first row after two tokens, an end token others at random."""
    generator = random.Random(1)
    prompts = [random_ids(generator, llm, length) for length in (CONTEXT - 2, 3, 25, 31)]
    seeds = [1, 2, 3, 4]
    alone = [ids_of(llm, [prompt], [seed], 30)[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    assert len(alone[0]) == 2
    assert ids_of(llm, prompts, seeds, 30) == alone
    assert ids_of(llm, prompts[::-1], seeds[::-1], 30) == alone[::-1]
    stopping = dataclasses.replace(llm.loaded, stop_ids=llm.loaded.stop_ids | {alone[2][4], alone[3][9]})
    ends = [next((n + 1 for n, i in enumerate(ids) if i in stopping.stop_ids), len(ids)) for ids in alone]
    assert ends[2] <= 5
    assert ends[3] <= 10
    together = ids_of(LLM(stopping), prompts, seeds, 30)
    assert together == [ids[:end] for ids, end in zip(alone, ends, strict=True)]


def test_a_prompt_in_chunks_is_the_prompt(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the logit; lengths around multiples of the chunk."""
    from mygpt.engine.prefill import prefill

    monkeypatch.setattr("mygpt.engine.prefill.PREFILL_CHUNK", 5)
    prompts = [random_ids(random.Random(2), llm, length) for length in (1, 4, 5, 6, 10, 11, 33, 60)]

    @torch.inference_mode()
    def chunked(rows: list[list[int]]) -> Tensor:
        return prefill(llm.loaded.model, llm.loaded.model.allocate_cache(len(rows), 60), rows)

    whole = torch.cat([llm.logits([prompt])[:, -1] for prompt in prompts])
    torch.testing.assert_close(chunked(prompts), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([chunked([p]) for p in prompts]), whole, rtol=1e-4, atol=1e-4)


def test_one_of_many_processes_with_a_model_each_answers(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As `srun -n 4 mygpt generate` starts them: no further rank of one command, which would print nothing."""
    monkeypatch.setenv("SLURM_PROCID", "1")
    arguments = [
        "generate",
        str(folders["llama"]),
        "--prompt",
        "Hi",
        "--max_new_tokens",
        "2",
        "--json",
        "true",
    ]
    assert main(arguments) == 0
    assert len(json.loads(capfd.readouterr().out)["token_ids"]) == 2


@pytest.mark.parametrize("variable", ["RANK=1", "LOCAL_RANK=2", "SLURM_PROCID=1", "RANK=abc"])
def test_a_shell_with_a_rank_makes_no_worker(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variable: str
) -> None:
    """As in an interactive step of a SLURM job: on one device, Ctrl-C and errors are as ever."""
    monkeypatch.setenv(*variable.split("=", 1))
    handler = signal.getsignal(signal.SIGINT)
    assert main(["generate", "nowhere.gguf", "--prompt", "Hi"]) == 2
    assert signal.getsignal(signal.SIGINT) is handler
    error = capfd.readouterr().err
    assert error.startswith("error: ") and "rank" not in error


def test_a_worker_knows_that_it_was_started_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes that rank 0 starts, as a script may, are no workers."""
    monkeypatch.setenv(PARENT_PID_VARIABLE, "1")
    for local_rank, expected in (("1", True), ("0", False)):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert started_as_worker() is expected


def test_a_local_rank_that_is_no_number_is_bad_input(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where there are several ranks; a command on one device does not look at it."""
    monkeypatch.setenv("LOCAL_RANK", "abc")
    options = ["--prompt", "Hi", "--devices", "2", "--accelerator", "cpu", "--strategy", "fsdp"]
    assert main(["generate", str(folders["llama"]), *options]) == 2
    assert capfd.readouterr().err == "error: LOCAL_RANK=abc in the environment is no number; unset it\n"
