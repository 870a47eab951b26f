"""The entry point: the table of commands. It imports only the command that was named."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import time
from collections.abc import Sequence

from mygpt import __version__
from mygpt.errors import InputError, WorkerFinished, did_you_mean, error_message
from mygpt.messages import tell
from mygpt.parallel import termination
from mygpt.parallel.rank_env import (
    REPORT_DELAY_S,
    TASK_VARIABLE,
    become_worker,
    env_rank,
    is_worker,
    may_be_worker,
    started_as_worker,
)

# Each is a module of mygpt.commands with the functions build_parser() and run(arguments).
COMMANDS = {
    "chat": "Talk with a model.",
    "generate": "Generate text from a prompt or a file of prompts.",
    "generate_sequentially": "The same, with layers on several devices in turn.",
    "generate_tp": "The same, with a slice of every matrix on each device.",
    "download": "Download a model, or list the families and names.",
    "plan": "Tell how much memory a model takes, and if it fits.",
    "convert": "Write a model in another type, quantized, or from GGUF.",
    "list": "List the models on this machine.",
    "rm": "Remove models from this machine.",
    "doctor": "Tell about this machine, for a bug report.",
    "completion": "Print what makes a shell complete mygpt's options.",
}
EXAMPLES = (
    "mygpt chat",
    'mygpt generate qwen3-0.6b "What is the capital of France?"',
    "mygpt plan llama-3.3-70b --quantize bnb.nf4 --device_memory 24GB",
)


def usage() -> str:
    """The text of `mygpt --help`."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    examples = "\n".join(f"  {example}" for example in EXAMPLES)
    return (
        "usage: mygpt COMMAND [CHECKPOINT] [options]\n\n"
        "Runs language models from their Hugging Face repository, a local folder or a\n"
        "GGUF file.\n\n"
        f"commands:\n{table}\n\n"
        "'mygpt help COMMAND' lists a command's options; 'mygpt --version' prints the\n"
        "version.\n\n"
        f"examples:\n{examples}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (failed), 2 (bad input) or 128 + a signal's number (130: Ctrl-C).

    Without `arguments` it is this process's own command: those of the command line.
    """
    _open_streams()
    if arguments is None:  # the process is ours
        _shun_current_folder()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a model may write what an old console cannot show
        sys.stdout.reconfigure(errors="replace")
    if started_as_worker():
        become_worker()
    if arguments is not None:
        return _run(list(arguments))
    if not may_be_worker():  # else rank 0 handles them
        termination.handle_signals()
    code = _run(sys.argv[1:])
    termination.ignore_signals()
    return termination.exit_code() or code


def _run(arguments: list[str]) -> int:
    """Run one command; say in one line what went wrong."""
    try:
        _dispatch(arguments)
        sys.stdout.flush()  # what fails, fails here: at exit Python would print a traceback
        return 0
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # what follows begins a line, after "^C"
        return 130
    except BrokenPipeError:
        _discard_output()  # whoever read it has gone, as in `mygpt generate | head`
        return 0
    except Exception as error:
        if termination.exit_code():  # a terminal that has closed, on which the tidying up could not be shown
            _discard_output()
            return 1
        if os.environ.get("MYGPT_DEBUG") == "1":
            raise
        rank = ""
        if is_worker():
            local = env_rank("LOCAL_RANK")
            time.sleep(REPORT_DELAY_S + local / 2)  # once one rank has reported, rank 0 ends the others
            rank = f"rank {env_rank('RANK') or local}: "
        tell(f"error: {rank}{error_message(error)}")
        return 2 if isinstance(error, InputError) else 1


def _discard_output() -> None:
    """At exit Python would complain that what is left of it cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Where the shell closed a standard stream (`2>&-`), Python has None; here it is as with `2>/dev/null`.

    Each gets its own number again, which is the lowest free one, before another file does. Children inherit them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _shun_current_folder() -> None:
    """Let no program or module come from the current folder, where mygpt or a library starts compilers or Python."""
    folders = filter(os.path.isabs, os.environ.get("PATH", "").split(os.pathsep))
    os.environ["PATH"] = os.pathsep.join(folders) or os.defpath  # an empty one means the current folder
    os.environ.setdefault("PYTHONSAFEPATH", "1")


def _dispatch(arguments: list[str]) -> None:
    if started_as_worker() and TASK_VARIABLE in os.environ:
        with contextlib.suppress(WorkerFinished):
            importlib.import_module("mygpt.loading.worker").run()
        return
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]  # `help generate` is `generate --help`
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return
    if arguments[0] in ("-V", "--version", "version"):
        print(__version__)
        return
    given, *rest = arguments
    name = given.replace("-", "_")
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {given!r}{hint}")
    # A worker ends here when rank 0 has; SystemExit is also argparse's way out of --help and --print_config.
    with contextlib.suppress(WorkerFinished, SystemExit):
        importlib.import_module(f"mygpt.commands.{name}").run(rest)


if __name__ == "__main__":
    sys.exit(main())
