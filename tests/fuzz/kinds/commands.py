"""Commands that use a model, for the kinds that break its files."""

import random

from tests.fuzz.case import MODEL, Case

ONE = ("--max_new_tokens", "2", "--seed", "1")
_DEFAULT = "../home/.cache/mygpt/SmolLM2-135M-Instruct"
_COMMANDS: tuple[tuple[int, list[str]], ...] = (
    (8, ["generate", MODEL, "--prompt", "Hi", *ONE]),
    (2, ["generate", "o/m", "--prompt", "Hi", "--raw_prompt", "true", *ONE]),
    (2, ["generate", MODEL, "--prompt", "Hi", "--json", "true", "--precision", "bf16-true", *ONE]),
    (1, ["generate", MODEL, "--prompt", "Hi", "--quantize", "bnb.nf4", *ONE]),
    (1, ["generate", MODEL, "--prompt", "Hi", "--devices", "cpu,cpu", *ONE]),
    (2, ["plan", MODEL]),
    (1, ["plan", MODEL, "--compare", "true"]),
    (2, ["convert", MODEL, "made"]),
    (1, ["convert", MODEL, "made", "--dtype", "bfloat16", "--quantize", "bnb.int8"]),
    (2, ["chat", MODEL, *ONE]),
    (1, ["list", "--json", "true"]),
)


def use_model(rng: random.Random, case: Case, path: str = MODEL) -> Case:
    """Give the case one of the commands, with the model's path."""
    known = _COMMANDS
    if case.unreadable:
        known = tuple(
            row for row in known if row[1][0] in ("plan", "convert", "list") or "--raw_prompt" in row[1]
        )
    chosen = rng.choices(known, [weight for weight, _ in known])[0][1]
    case.arguments = [path if word in (MODEL, "o/m") and path != MODEL else word for word in chosen]
    if chosen[0] == "chat":
        case.stdin = b"Hi\n/stats\nAnd?\n/regen\n"
    return case


def add_default_model(case: Case, files: dict[str, bytes]) -> None:
    """Where an option loses the checkpoint, mygpt takes its default model, which is not to be downloaded."""
    case.files.update({f"{_DEFAULT}/{name}": content for name, content in files.items()})


def new_case(files: dict[str, bytes]) -> Case:
    """A case with a model and no command yet."""
    case = Case("", {}, [])
    case.add_model(files)
    return case
