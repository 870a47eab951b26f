"""Mistral with images (Mistral Small 3.1, Ministral 3). Only the language model is read."""

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families._multimodal import SKIPPED, text_fields, text_names
from mygpt.families.llama import NAMES
from mygpt.families.ministral3 import read_ministral3
from mygpt.families.mistral import read_mistral
from mygpt.model.config import Config

_READERS = {"mistral": read_mistral, "ministral3": read_ministral3}


def _read_config(fields: Fields) -> Config:
    text = text_fields(fields)
    model_type = text.get("model_type", "mistral")
    if not isinstance(model_type, str) or model_type not in _READERS:
        raise text.error("model_type", f"one of {', '.join(_READERS)}")
    return _READERS[model_type](text)


FAMILY = Family(
    model_type="mistral3",
    summary="Mistral Small 3.1 and 3.2, Ministral 3 3B, 8B, 14B (text only)",
    examples=("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistralai/Ministral-3-8B-Base-2512"),
    read_config=_read_config,
    names=text_names(NAMES),
    skipped=SKIPPED,
)
