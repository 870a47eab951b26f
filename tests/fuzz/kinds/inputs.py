"""Cases that break what a user gives a model: prompts, files of them, a chat's lines, its transcripts."""

import json
import os
import random
from typing import Any

from tests.fuzz import mutate_bytes, mutate_files, values
from tests.fuzz.bases import Bases
from tests.fuzz.case import MODEL, Case
from tests.fuzz.kinds.commands import ONE, new_case

_MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
_SAID = [*_MESSAGES, {"role": "assistant", "content": "Yes?"}]
_SETTINGS = {"temperature": 0.5, "top_k": 3, "max_new_tokens": 2, "seed": 1, "stop": ["x"], "think": None}
_ROWS: list[dict[str, Any]] = [
    {"prompt": "Hi", "id": 1, "max_new_tokens": 2, "temperature": 0.0},
    {"messages": _MESSAGES, "top_p": 0.9, "stop": ["a", "b"], "seed": 5, "max_new_tokens": 2, "min_p": 0.1},
    {"messages": [*_MESSAGES, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "é🙂"}],
     "settings": _SETTINGS, "chat_template_kwargs": {"note": [1]}, "repetition_penalty": 1.2, "think": False},
]  # fmt: skip
_FILES = ("t.json", "notes.txt", "no-such", ".", "/dev/null", "~", "~nobody-there/x", "a" * 300, "a\x00b", '""', "",
          "checkpoints", "\x1b[2J", "/proc/self/mem", "/dev/full", "loop", "pipe")  # fmt: skip
_NAMES = (*_SETTINGS, "top_p", "min_p", "repetition_penalty", "sys_prompt", "chat_template_kwargs", "on_overflow",
          "speculate", "repetition_guard", "nothing", "", "__class__")  # fmt: skip


def argument(text: str) -> str:
    """A text as a command line can hold it: no NUL, not too long, bytes that are no UTF-8 as Python has them."""
    return os.fsdecode(text.replace("\0", "").encode("utf-8", "surrogatepass")[:120_000])


def prompts(rng: random.Random, bases: Bases) -> Case:
    """A prompt as an option or on standard input, or a file of prompts."""
    case = new_case(bases.get(rng.choice(("llama", "tokenizer/sp-bpe", "tokenizer/wordpiece"))))
    how = rng.choice(("option", "stdin", "rows", "rows", "rows"))
    if how == "option":
        raw = ["--raw_prompt", "true"] if rng.random() < 0.5 else []
        case.arguments = ["generate", MODEL, f"--prompt={argument(_text(rng))}", *raw, *ONE]
        return case
    if how == "stdin":
        text = "A b " * rng.choice((1, 100, 2_000_000)) if rng.random() < 0.2 else _text(rng)
        case.stdin, told = mutate_bytes.mutate(rng, text.encode("utf-8", "surrogatepass"))
        case.mutations.append(told)
        case.arguments = ["generate", MODEL, "--prompt", "-", *ONE]
        return case
    case.files["rows.jsonl"] = _rows(rng, case)
    if rng.random() < 0.05:
        mutate_files.mutate(rng, case, ["rows.jsonl"])
    as_json = ["--json", "true"] if rng.random() < 0.5 else []
    case.arguments = ["generate", MODEL, "--prompts", "rows.jsonl", *as_json, "--max_new_tokens", "2"]
    return case


def valid(bases: Bases) -> list[Case]:
    """What the cases here begin with; each of these must end well."""
    rows = new_case(bases.get("tokenizer/sp-bpe"))
    rows.files["rows.jsonl"] = "\n".join(map(json.dumps, _ROWS)).encode()
    rows.arguments = ["generate", MODEL, "--prompts", "rows.jsonl"]
    saved = new_case(bases.get("llama"))
    saved.files["t.json"] = json.dumps({"messages": _SAID, "settings": _SETTINGS}).encode()
    saved.arguments = ["chat", MODEL, "--load", "t.json"]
    saved.stdin = b"And?\n/show\n/regen\n/undo\n/save new.json\n/load new.json\n"
    return [rows, saved]


def _text(rng: random.Random) -> str:
    text = rng.choice(
        (*values.TEXTS, "Hi there", "<|end|>" * 10, "a" * 1023, "a" * 1024, "\ufeffHi", "a\x00" * 50)
    )
    return text * rng.choice((1, 1, 2))


def _rows(rng: random.Random, case: Case) -> bytes:
    rows = [values.dump(row) for row in _ROWS]
    i = rng.randrange(len(rows))
    changed, texts = values.mutate_times(rng, _ROWS[i])
    rows[i] = values.dump(changed)
    case.mutations += [f"row {i}: {text}" for text in texts]
    content = "\n".join(rows).encode()
    if rng.random() < 0.15:
        content, told = mutate_bytes.mutate(rng, content)
        case.mutations.append(told)
    return content


def chat(rng: random.Random, bases: Bases) -> Case:
    """The lines of a chat: messages and slash commands."""
    case = new_case(bases.get("llama"))
    case.files["notes.txt"] = b"Some notes.\n" if rng.random() < 0.7 else rng.randbytes(200)
    case.files["t.json"] = json.dumps({"messages": _MESSAGES, "settings": _SETTINGS}).encode()
    lines = [
        "Hi",
        *(_line(rng) for _ in range(rng.randrange(1, 8))),
        rng.choice(("And?", "/exit", "/save new.json")),
    ]
    case.stdin = "\n".join(lines).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        case.stdin, told = mutate_bytes.mutate(rng, case.stdin)
        case.mutations.append(told)
    case.mutations += [f"line {line[:60]!a}" for line in lines]
    case.arguments = ["chat", MODEL, *ONE]
    return case


def _line(rng: random.Random) -> str:
    command = rng.choice(
        ("/read", "/save", "/load", "/set", "/set", "/set", "/system", "/model", "", "", "other")
    )
    if command in ("/read", "/save", "/load"):
        return f"{command} {rng.choice(_FILES)}"
    if command == "/set":
        return f"/set {rng.choice(_NAMES)} {_yaml_value(rng)}"
    if command == "/model":
        return f"/model {rng.choice((MODEL, 'o/m', 'no/such', *_FILES))}"
    if command == "other":
        return rng.choice(("/help", "/clear", "/show", "/regen", "/undo", "/stats", "/multiline", '"""', "//x",
                           "!submit", "/?", "/nothing", "/exit now", "exit", '"""a"""', "/undo 3"))  # fmt: skip
    return f"{command} {_text(rng)}".replace("\n", " ")


def _yaml_value(rng: random.Random) -> str:
    more = ("&a [*a]", "!!python/object/apply:os.system ['touch ../../outside/pwned']", "2024-01-01", "0o17", "1_000",
            "{a: 1, a: 2}", "'", "[", "# x", "0.5", "3", "true", "!!binary x", "a: b: c", "*x", "9" * 5000)  # fmt: skip
    value = values.nasty(rng)
    return rng.choice((*more, values.dump(value), str(value))).replace("\n", " ")[:200_000]


def transcript(rng: random.Random, bases: Bases) -> Case:
    """A file that /save wrote, loaded by an option or a command, or run as a row of prompts."""
    case = new_case(bases.get("llama"))
    root, case.mutations = values.mutate_times(rng, {"messages": _SAID, "settings": _SETTINGS})
    content = values.dump(root).encode()
    if rng.random() < 0.15:
        content, told = mutate_bytes.mutate(rng, content)
        case.mutations.append(told)
    case.files["t.json"] = content
    if rng.random() < 0.08:
        mutate_files.mutate(rng, case, ["t.json"])
    uses = (
        (["chat", MODEL, "--load", "t.json", *ONE], b"And?\n/show\n/regen\n/undo\n/save new.json\n"),
        (["chat", MODEL, *ONE], b"/load t.json\nAnd?\n/undo\n/regen\n/show\n"),
        (["generate", MODEL, "--prompts", "t.json", "--max_new_tokens", "2"], b""),
    )
    case.arguments, case.stdin = rng.choice(uses)
    if case.unreadable:  # refused before a template is needed
        case.arguments, case.stdin = uses[0]
    return case
