"""Cases that break options: on the command line, in a file of `--config`, in the presets of config_hub."""

import argparse
import importlib
import json
import random
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz import mutate_bytes, mutate_files, values
from tests.fuzz.bases import Bases
from tests.fuzz.case import MODEL, Case
from tests.fuzz.kinds.commands import ONE, add_default_model, new_case
from tests.fuzz.kinds.inputs import argument

COMMANDS = ("generate", "chat", "plan", "convert", "download", "list")
_HUB = Path(__file__).parents[3] / "config_hub"
# They start processes, which the cases' user may not be able to, wait for other machines, or compile for long.
_LEFT_OUT = ("num_nodes", "compile", "config", "help", "print_config")
_NEEDED = ("checkpoint", "max_new_tokens")
_SNIPPETS = (
    b"a: &a [*a]\n",
    b"stop: &s [x, *s]\n",
    b"a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
    b"g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\nstop: *h\n",
    b"<<: {temperature: 0.5}\n",
    b"sys_prompt: !!python/object/apply:os.mkdir ['../../outside/pwned']\n",
    b"sys_prompt: !!python/name:os.system\n",
    b"--- \n---\ntop_k: 2\n",
    b"%YAML 9.9\n---\n",
    b"\ttop_k: 2\n",
    b"sys_prompt: \xff\xfe\n",
    b"? [1, 2]\n: 3\n",
    b"temperature: .nan\n",
    b"seed: 2024-01-01\n",
    b"seed: 1:30:00\n",
    b"stop: !!set {a, b}\n",
    b"sys_prompt: !!binary AAAA\n",
    b"config: c.yaml\n",
    b"checkpoint: ~\n",
    b"max_new_tokens: 0o17\n",
    b"top_k: " + b"9" * 5000 + b"\n",
    b"sys_prompt: " + b"[" * 3000 + b"]" * 3000 + b"\n",
    b"sys_prompt: \"\\ud800\"\n",
    b"sys_prompt: \"\\x1b]0;t\\x07\"\n",
    b"a" * 100_000 + b": 1\n",
    b"prompt: {}\n",
    b"devices: [cpu]\n",
    b"null: 1\n",
    b"true: 1\n",
    b"1: 1\n",
    b"top-k: 2\nsys-prompt: x\n",
)  # fmt: skip


def options(rng: random.Random, bases: Bases) -> Case:
    """A command with one to three odd options, out of all that its parser has."""
    command = rng.choice(COMMANDS)
    case = new_case(bases.get("llama"))
    add_default_model(case, bases.get("llama"))
    case.files["rows.jsonl"] = b'{"prompt": "Hi"}\n'
    case.arguments = [command, *_usual(command)]
    case.stdin = b"Hi\n"
    actions = [action for action in parser_actions(command) if action.dest not in _LEFT_OUT]
    for action in rng.sample(actions, min(rng.choice((1, 1, 2, 3)), len(actions))):
        words = _option(rng, command, action)
        if action.option_strings:
            case.arguments += words
        else:
            case.arguments[1:2] = words
        case.mutations.append(" ".join(words)[:100])
    if rng.random() < 0.1:
        case.arguments.append(argument(rng.choice(values.TEXTS)))
    return case


def parser_actions(command: str) -> list[argparse.Action]:
    """All options and arguments of a command."""
    module: Any = importlib.import_module(f"mygpt.commands.{command}")
    actions: list[argparse.Action] = module.build_parser()._actions
    return actions


def _usual(command: str) -> list[str]:
    return {
        "generate": [MODEL, "--prompt", "Hi", *ONE],
        "chat": [MODEL, *ONE],
        "plan": [MODEL],
        "convert": [MODEL, "made"],
        "download": ["no/such"],
        "list": [],
    }[command]


def _option(rng: random.Random, command: str, action: argparse.Action) -> list[str]:
    value = _value(rng, command, action.dest)
    if not action.option_strings:
        return [value]
    name = rng.choice(action.option_strings)
    how = rng.random()
    if how < 0.05:
        return [name]
    if how < 0.1:
        return [name[:-1], value]
    if how < 0.15:
        return [name, value, name, _value(rng, command, action.dest)]
    return [f"{name}={value}"] if name.startswith("--") and how < 0.6 else [name, value]


def _value(rng: random.Random, command: str, name: str) -> str:
    """A text for an option: nasty, or valid where it is one of a few."""
    from mygpt.options.checks import choices

    if (known := choices(name)) and rng.random() < 0.4:
        return rng.choice(known)
    if rng.random() < 0.15:
        return rng.choice(
            ("1", "0", "true", "false", "0.5", "cpu", "cpu,cpu", MODEL, "rows.jsonl", "new", "10GB")
        )
    value = values.nasty(rng)
    text = argument(
        str(value) if isinstance(value, str | int | float) or value is None else values.dump(value)
    )
    many = name == "devices" and command != "plan" and text.strip().isdigit() and int(text[:12]) > 1
    return "cpu,cpu" if many else text


def yaml_file(rng: random.Random, bases: Bases) -> Case:
    """A file of options."""
    command = rng.choice(("generate", "generate", "chat", "plan"))
    return _with_config(rng, bases, command, _content(rng, command))


def valid(bases: Bases) -> list[Case]:
    """What the cases here begin with; each of these must end well."""
    cases = []
    for command in ("generate", "chat", "plan"):
        case = new_case(bases.get("llama"))
        case.files["c.yaml"] = json.dumps(_all_content(command)).encode()
        case.arguments = [
            command,
            "--config",
            "c.yaml",
            *(["--prompt", "Hi"] if command == "generate" else []),
        ]
        cases.append(case)
    return cases


def _content(rng: random.Random, command: str) -> dict[str, Any]:
    content = _all_content(command)
    return {name: value for name, value in content.items() if name in _NEEDED or rng.random() < 0.6}


def _all_content(command: str) -> dict[str, Any]:
    """Options of a command, each with a valid value."""
    content: dict[str, Any] = {"checkpoint": MODEL, "max_new_tokens": 2}
    more: dict[str, Any] = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 1, "stop": ["x", "y"],
                            "sys_prompt": "Be kind.", "precision": "32-true", "quantize": None, "devices": 1,
                            "chat_template_kwargs": {"note": {"b": 1}}, "context_length": 128,
                            "think": False}  # fmt: skip
    known = {action.dest for action in parser_actions(command)}
    return content | {name: value for name, value in more.items() if name in known}


def preset(rng: random.Random, bases: Bases) -> Case:
    """A preset of config_hub, with a tiny model in place of its own."""
    path = rng.choice(
        sorted(path for path in _HUB.glob("*/*.yaml") if path.parent.name in ("chat", "generate"))
    )
    content = yaml.safe_load(path.read_text())
    content |= {"checkpoint": MODEL, "max_new_tokens": 2, "context_length": 64}
    for name in (
        "devices",
        "strategy",
        "cpu_offload",
        "compile",
        "draft",
    ):  # they need more than this machine
        content.pop(name, None)
    return _with_config(rng, bases, path.parent.name, content)


def _with_config(rng: random.Random, bases: Bases, command: str, content: dict[str, Any]) -> Case:
    case = new_case(bases.get("llama"))
    add_default_model(case, bases.get("llama"))
    root, case.mutations = values.mutate_times(rng, content)
    how = rng.random()
    if isinstance(root, dict) and how < 0.6:  # in lines, as a user writes it
        lines = [
            f"{key if key.isidentifier() else json.dumps(key)}: {values.dump(v)}" for key, v in root.items()
        ]
        text = ("\n".join(lines) + "\n").encode()
    else:
        text = values.dump(root).encode()
    if how < 0.25:
        snippet = rng.choice(_SNIPPETS)
        text, told = rng.choice((text + snippet, snippet + text, snippet)), f"snippet {snippet[:60]!a}"
        case.mutations.append(told)
    elif how < 0.4:
        text, told = mutate_bytes.mutate(rng, text)
        case.mutations.append(told)
    case.files["c.yaml"] = text
    if rng.random() < 0.04:
        mutate_files.mutate(rng, case, ["c.yaml"])
    extra = ["--prompt", "Hi"] if command == "generate" else []
    case.arguments = [
        command,
        "--config",
        "c.yaml",
        *extra,
        *(["--print_config"] if rng.random() < 0.1 else []),
    ]
    case.stdin = b"Hi\n"
    return case
