"""`tutorials/models.md` says what the code does."""

from dataclasses import fields

from mygpt.families import FAMILIES
from mygpt.model.config import Config
from tests.families.models_page import FEATURES, NO_FEATURES, PAGE, renewed
from tests.families.variants import VARIANTS


def test_the_page_lists_the_families_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == renewed(page), "run `python -m tests.families.models_page`"


def test_every_fact_of_an_architecture_is_called_by_a_name_or_is_no_feature() -> None:
    assert {field.name for field in fields(Config)} == FEATURES.keys() | NO_FEATURES
    assert FEATURES.keys() & NO_FEATURES == set()


def test_every_family_is_compared_with_transformers() -> None:
    assert FAMILIES.keys() - {variant.config.model_type for variant in VARIANTS} == set()
