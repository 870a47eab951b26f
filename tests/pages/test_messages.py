"""The messages that tutorials/troubleshooting.md explains are those of the code."""

import re

import pytest

from tests.pages.collect import ROOT, read

PAGE = ROOT / "tutorials" / "troubleshooting.md"


def explained() -> list[str]:
    """What stands in the column `message` of the page's tables."""
    tables = re.findall(r"^\| message \|.*\n\|[ -|]*\n((?:\|.*\n)+)", read(PAGE), re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


@pytest.fixture(scope="module")
def source() -> str:
    """All of mygpt, the parts of a text that stands over several lines put together."""
    texts = [read(path) for path in sorted((ROOT / "mygpt").rglob("*.py"))]
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", "\n".join(texts))


@pytest.mark.parametrize("message", explained())
def test_a_message_is_one_of_the_code(message: str, source: str) -> None:
    for part in filter(None, map(str.strip, message.split("…"))):
        assert part in source


def test_messages_are_found() -> None:
    assert len(explained()) > 15
