"""A fork server: imports torch and mygpt once, then runs each case in a fork of itself.

Writes a line of JSON for each case to its standard output; started by `tests.fuzz.__main__`.
"""

import argparse
import contextlib
import gc
import importlib
import json
import pkgutil
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.bases import Bases
from tests.fuzz.case import MODEL, Case
from tests.fuzz.child import Call, Limits, Place, run_case
from tests.fuzz.kinds import inputs, make_case, numbers, options
from tests.fuzz.kinds.commands import add_default_model
from tests.fuzz.rights import adopt_orphans
from tests.fuzz.verdict import judge

_ODD_MODULES = {"antigravity", "this", "idlelib", "turtledemo", "test"}  # of the standard library
_LATE_MODULES = (
    "encodings.idna",
    "encodings.utf_8_sig",
    "encodings.latin_1",
    "encodings.ascii",
    "encodings.utf_16",
)
MYGPT = "tests.fuzz.server:mygpt_main"  # what returns the function that a case calls
WARM_UP = ("llama", "bin/zip", "bin/legacy", "sharded/safetensors", "gguf/F32", "gguf/Q4_0", "bnb/bnb.nf4-dq",
           "bnb/bnb.int8", "quantized/fp8", "quantized/mxfp4", "tokenizer/sp-bpe", "tokenizer/unigram",
           "tokenizer/vocab-merges")  # fmt: skip


def mygpt_main() -> Call:
    """The command's main function, once all that a case may need is imported."""
    import mygpt.__main__

    return mygpt.__main__.main


def preload(bases: Bases, place: Place, call: Call) -> None:
    """Import all of mygpt and of the standard library, and what runs of valid cases import beyond; load the kernels.

    The user of a case with unreadable files may not be able to read Python's folder either.
    """
    import mygpt

    for module in pkgutil.walk_packages(mygpt.__path__, "mygpt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    mygpt.kernels.prepare()
    place.user = None  # these cases are valid, and their modules may lie where nobody else reads
    names = {*_LATE_MODULES, *(name for name in sys.stdlib_module_names - _ODD_MODULES if name[0] != "_")}
    for case in _valid_cases(bases):
        outcome = run_case(case, place, lambda arguments: _and_modules(call, arguments), Limits())
        if outcome.code:
            raise SystemExit(
                f"a valid case fails: {case.arguments}\n{outcome.stderr.decode(errors='replace')}"
            )
        names |= set((place.run / "modules").read_text().split())
    for name in sorted(names - sys.modules.keys()):
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)


def _and_modules(call: Call, arguments: list[str]) -> int:
    code = call(arguments)
    Path("modules").write_text("\n".join(sys.modules))
    return code


def _valid_cases(bases: Bases) -> Iterator[Case]:
    yield from inputs.valid(bases)
    yield from options.valid(bases)
    once = ["--max_new_tokens", "1"]
    for name in WARM_UP:
        case = Case("valid", {}, ["generate", "o/m", "--prompt", "Hi", *once])
        case.add_model(bases.get(name))
        if "gguf" in name:
            case.arguments[1] = f"{MODEL}/model.gguf"
        yield case
    more = (["plan", "o/m", "--compare", "true"], ["convert", "o/m", "made", "--quantize", "bnb.nf4"], ["list"],
            ["chat", "o/m", *once], ["generate", "o/m", "--json", "true", "--temperature", "0", *once],
            ["plan", "o/m", "--json", "true"], ["generate", "o/m", "--speculate", "ngram", *once],
            ["download", "list"], ["generate", "o/m", "--quantize", "bnb.int8", *once])  # fmt: skip
    for arguments in more:
        case = Case("valid", {}, list(arguments), b"Hi\n/regen\n/set top_k 1\n")
        case.add_model(bases.get("llama"))
        yield case
    case = Case("valid", {}, ["generate", "--prompt", "Hi", *once])
    add_default_model(case, bases.get("llama"))
    yield case


def main() -> None:
    """Run the server's share of the cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("bases", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--mutations", type=int)
    parser.add_argument("--share", type=int, nargs=2, help="this server's number and their count")
    parser.add_argument("--case", type=int)
    parser.add_argument("--wall", type=float)
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--call", default=MYGPT)
    given = parser.parse_args()
    module, name = given.call.split(":")
    bases, place = Bases(given.bases), Place(given.root)
    call = getattr(importlib.import_module(module), name)()
    user = place.user
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending its case
    if given.call == MYGPT:
        preload(bases, place, call)
    place.user = user
    gc.collect()
    gc.freeze()
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        raise SystemExit(f"the fork server has {threads} threads; it must have one")
    limits = Limits(wall_s=given.wall, cpu_s=given.cpu)
    mine = [given.case] if given.case is not None else _share(given)
    for number in mine:
        print(json.dumps(_run(given.seed, number, bases, place, call, limits)), flush=True)


def _share(given: argparse.Namespace) -> list[int]:
    first, step = given.share
    return numbers(given.seed, given.kinds, given.mutations)[first::step]


def _run(seed: int, number: int, bases: Bases, place: Place, call: Call, limits: Limits) -> dict[str, object]:
    try:
        case = make_case(seed, number, bases)
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(f"case {seed}:{number} cannot be made") from error
    outcome = run_case(case, place, call, limits)
    verdict = judge(outcome, chat=case.arguments[:1] == ["chat"])
    return {
        "number": number,
        "kind": case.kind,
        "word": verdict.word,
        "message": verdict.message,
        "seconds": round(outcome.seconds, 3),
        "cpu_seconds": round(outcome.cpu_seconds, 3),
    }


if __name__ == "__main__":
    main()
