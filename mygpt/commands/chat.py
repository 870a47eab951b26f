"""`mygpt chat`: talk with a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mygpt.commands._parser import Parser, given, make_parser, parse, take, with_strategy
from mygpt.commands._torch import import_torch
from mygpt.errors import InputError
from mygpt.hub.default_model import REPO
from mygpt.hub.prefetch import prefetch
from mygpt.options import ChatOptions, LoadOptions, ReplOptions, SamplingOptions, check_one_drafter

GROUPS = (ReplOptions, ChatOptions, SamplingOptions, LoadOptions)
EXAMPLES = (
    "mygpt chat",
    "mygpt chat qwen3-4b --quantize bnb.nf4",
    "mygpt chat llama-3.2-3b --sys_prompt 'Answer in French.' --temperature 0.5",
)


def build_parser() -> Parser:
    """The options of the command."""
    parser = make_parser("chat", "Talk with a model.", EXAMPLES)
    for group in GROUPS:
        parser.add_class_arguments(group)
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parse the options, load the model, talk.

    The options that the user gives win over the settings of a saved conversation.
    """
    parser = build_parser()
    parsed = parse(parser, arguments)
    repl, options = take(ReplOptions, parsed), take(ChatOptions, parsed)
    sampling = take(SamplingOptions, parsed)
    loading = with_strategy(take(LoadOptions, parsed), "chat", "auto")
    check_one_drafter(loading.draft, options.speculate)
    named = given(parser, arguments)
    if loading.prompt_style == "raw":
        raise InputError("--prompt_style raw has no way to write a conversation: leave it out, or take plain")

    from mygpt.chat.display import choose_display, note
    from mygpt.chat.transcript import read_transcript

    display = choose_display(repl.markdown, sys.stdout)
    if repl.load is not None:
        read_transcript(repl.load)  # errors come before the model is loaded

    prefetch(parsed.get("checkpoint"), loading.revision)
    import_torch()
    from mygpt.chat.conversation import Conversation
    from mygpt.chat.models import ModelSwitch, describe
    from mygpt.chat.session import Session
    from mygpt.engine.engine import Engine
    from mygpt.loading.load import load

    name, loaded = parsed.get("checkpoint") or REPO, load(parsed.get("checkpoint"), loading)
    models = ModelSwitch(name, loading, loaded)
    conversation = Conversation(Engine(loaded), options, sampling)
    del loaded  # the conversation alone holds the model, and may let go of it
    conversation.prompt_encoder.template_variables(options.think, options.chat_template_kwargs or {})
    if repl.load is not None:
        conversation.load(repl.load)
        conversation.change(**{name: parsed[name] for name in named & conversation.settings.keys()})
        conversation.system = options.sys_prompt if "sys_prompt" in named else conversation.system
    interactive = sys.stdin.isatty()
    session = Session(
        conversation, display, note, interactive=interactive, multiline=repl.multiline, models=models
    )
    note(describe(name, conversation.engine, " | /help lists the commands"))
    if interactive:
        from mygpt.chat.terminal import run_terminal

        run_terminal(session)
    else:
        from mygpt.chat.script import run_script

        run_script(session, sys.stdin)
