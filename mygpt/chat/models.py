"""The model of a session, and how another one takes its place (`/model`)."""

from __future__ import annotations

import gc
from dataclasses import replace

import torch

from mygpt.chat.conversation import Conversation
from mygpt.engine.engine import Engine
from mygpt.errors import InputError
from mygpt.families import check_folder
from mygpt.hub.resolve import resolve
from mygpt.loading.load import LoadedModel, load
from mygpt.loading.plan import make_plan, read_architecture
from mygpt.loading.workspace import Workload
from mygpt.options import LoadOptions
from mygpt.parallel.remote_model import RemoteModel

PLANNED_TOKENS = 1024  # of a conversation, where it is asked whether a second model fits beside the first
NO_TEMPLATE = (
    "note: the model has no chat template and was perhaps not made to converse; it gets the plain style"
)


class ModelSwitch:
    """Loads the models of a session.

    `name` is the current one's. The others are loaded with the options of the first, but for those that are about its
    repository: `--revision`, `--prompt_style` and `--draft`.
    """

    def __init__(self, name: str, options: LoadOptions, loaded: LoadedModel) -> None:
        """`options` loaded the first model, `name`."""
        self.name = name
        self._first = name
        self._options = replace(options, strategy=loaded.strategy or options.strategy or "auto")
        self._in_processes = isinstance(loaded.model, RemoteModel)

    def switch(self, conversation: Conversation, name: str) -> None:
        """Let the conversation go on with another model. Where that fails, it has the old one.

        The old one is freed first where there is no room for both. It is loaded again if the new one fails.

        Raises:
            InputError: the model cannot be used, or this one runs in several processes.
        """
        if self._in_processes:
            raise InputError(
                "/model does not work where several processes run the model; /save the conversation, and start "
                f"'mygpt chat {name} --load FILE' with the same options"
            )
        with conversation.interruptible():
            fits = self._fits_beside(name)
        if fits:
            conversation.use(self._load(conversation, name))
        else:
            conversation.release()
            _free_memory()
            try:
                conversation.use(self._load(conversation, name))
            except BaseException:
                _free_memory()
                conversation.use(Engine(load(self.name, self._options_of(self.name))))
                raise
        self.name = name

    def _load(self, conversation: Conversation, name: str) -> Engine:
        with conversation.interruptible():
            return Engine(load(name, self._options_of(name)))

    def _options_of(self, name: str) -> LoadOptions:
        if name == self._first:
            return self._options
        return replace(self._options, revision=None, prompt_style=None, draft=None)

    def _fits_beside(self, name: str) -> bool:
        """Whether there surely is memory for this model too. It downloads it, and tells what is wrong with it."""
        options = self._options_of(name)
        path = resolve(name, access_token=options.access_token, revision=options.revision, check=check_folder)
        config, stored = read_architecture(path / "config.json" if path.is_dir() else path)
        slots = min(PLANNED_TOKENS, config.context_length)
        return make_plan(config, stored, options, Workload(slots, slots, 1)).fits is True


def describe(name: str, engine: Engine, more: str = "") -> str:
    """A model in one line: its name, where it is, in what precision, and `more`; a note where it cannot converse."""
    text = f"{name} | {engine.loaded.placement} {engine.loaded.precision}{more}"
    return text if engine.prompt_encoder.is_chat else f"{text}\n{NO_TEMPLATE}"


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
