"""Gemma 3 with images (arXiv:2503.19786). Only the language model is read."""

from mygpt.families import gemma3_text
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families._multimodal import SKIPPED, text_fields, text_names
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    return gemma3_text.read_gemma3(text_fields(fields))


FAMILY = Family(
    model_type="gemma3",
    summary="Gemma 3 4B, 12B, 27B, MedGemma (text only)",
    examples=("google/gemma-3-4b-it", "google/gemma-3-27b-it"),
    read_config=_read_config,
    names=text_names(gemma3_text.NAMES),
    skipped=SKIPPED,
)
