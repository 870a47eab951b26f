"""Writes the generated part of `tutorials/models.md`: `python -m tests.families.models_page`."""

from pathlib import Path

from mygpt.families import FAMILIES
from mygpt.families.rope_fields import _known_ropes

PAGE = Path(__file__).parents[2] / "tutorials" / "models.md"
BEGIN, END = "<!-- families: generated -->\n", "<!-- families: end -->\n"


def generated() -> str:
    """The table of families, in the order of `mygpt download list`, and the rope types."""
    rows = ["| model_type | models | for example |", "| --- | --- | --- |"]
    for _, family in sorted(FAMILIES.items()):
        examples = ", ".join(f"`{example}`" for example in family.examples)
        rows.append(f"| `{family.model_type}` | {family.summary} | {examples} |")
    return "\n".join([*rows, "", f"Rope types: {_known_ropes()}.", ""])


def renewed(page: str) -> str:
    """The page with its generated part as the code has it now."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + generated() + END + after


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
