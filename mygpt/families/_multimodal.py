"""Repositories with a language model and an image encoder. Only the language model is read."""

from collections.abc import Mapping

from mygpt.families._base import Split
from mygpt.families._fields import Fields


def text_fields(fields: Fields) -> Fields:
    """The language model's part of `config.json`.

    Raises:
        InputError: there is no such part.
    """
    text = fields.get("text_config")
    if not isinstance(text, dict):
        raise fields.error("text_config", "an object")
    # Both objects may have this key. The outer one counts: the head belongs to the whole model.
    tied = {key: fields.raw[key] for key in ("tie_word_embeddings",) if key in fields.raw}
    return Fields({**text, **tied}, f"{fields.source}: 'text_config'")


def text_names(names: Mapping[str, str | Split]) -> dict[str, str | Split]:
    """The names of a language model inside of a larger one, as on the Hub and as transformers 5 saves them."""
    hub = {f"language_model.{name}": ours for name, ours in names.items()}
    own = {name.replace("model.", "model.language_model.", 1): ours for name, ours in names.items()}
    return {**hub, **own}


SKIPPED = (
    "vision_tower.{rest}",
    "multi_modal_projector.{rest}",
    "model.vision_tower.{rest}",
    "model.multi_modal_projector.{rest}",
)
