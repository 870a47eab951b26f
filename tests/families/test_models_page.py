"""`tutorials/models.md` says what the code does."""

from mygpt.families import FAMILIES
from tests.families.models_page import PAGE, renewed
from tests.families.variants import VARIANTS


def test_the_page_lists_the_families_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == renewed(page), "run `python -m tests.families.models_page`"


def test_every_family_is_compared_with_transformers() -> None:
    assert FAMILIES.keys() - {variant.config.model_type for variant in VARIANTS} == set()
