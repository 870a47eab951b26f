"""What README.md, tutorials/ and config_hub/ tell a reader to run: commands, options, Python, links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "config_hub").rglob("*.yaml"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "tutorials").glob("*.md")), ROOT / "config_hub" / "README.md"]

SHELLS = ("bash", "shell", "sh")
SESSIONS = ("console", "text")  # a command stands after `$ `, its output below

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)(`{1,2})(?!`)(.+?)\1(?!`)")
_REDIRECTION = re.compile(r"\s\d?[<>]{1,2}\s*(?:\"[^\"]*\"|\S+)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_SEPARATORS = {"&&", "||", "|", ";", "&"}


@dataclass(frozen=True)
class Command:
    """One program with its arguments, as a page has it."""

    page: str
    text: str  # as it is written, with what is piped into it
    words: tuple[str, ...]  # program and arguments
    piped: tuple[str, ...] = ()  # the program before the `|`, and its arguments
    environment: tuple[tuple[str, str], ...] = ()
    output: str = ""  # what the page shows below it
    inline: bool = False  # in a sentence or a table

    @property
    def arguments(self) -> tuple[str, ...] | None:
        """Those of mygpt, also where torchrun or srun starts it; None: it is another program."""
        if self.words[0] == "mygpt":
            return self.words[1:]
        if "mygpt" in self.words and self.words[0] in ("torchrun", "srun"):
            return self.words[self.words.index("mygpt") + 1 :]
        return None


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    language: str
    content: str


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path) -> list[Block]:
    return [Block(name_of(path), language, content) for language, content in _FENCE.findall(read(path))]


def prose(path: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", read(path))


def inline_code(path: Path) -> list[str]:
    """What stands between backticks in sentences and tables."""
    return [code.replace(r"\|", "|").strip() for _, code in _INLINE.findall(prose(path))]


def commands() -> list[Command]:
    """Every command of the pages, and the one at the top of each preset; each once a page."""
    found = [command for path in PAGES for command in _of_page(path)]
    for preset in PRESETS:
        first = read(preset).splitlines()[0]
        found += split(first.removeprefix("#").strip(), name_of(preset))
    return list(dict.fromkeys(found))


def _of_page(path: Path) -> Iterator[Command]:
    for block in blocks(path):
        if block.language in SHELLS:
            yield from split(block.content, block.page)
        elif block.language in SESSIONS:
            for shown in re.split(r"^\$ ", block.content, flags=re.MULTILINE)[1:]:
                text, _, output = shown.partition("\n")
                yield from split(text, block.page, output=output)
    for code in inline_code(path):
        for inner in re.findall(r"\$\((mygpt .*?)\)", code):
            yield from split(inner, name_of(path))
        if re.match(r"mygpt [a-z-]", code) or "| mygpt " in code:
            yield from split(code, name_of(path), inline=True)


def split(text: str, page: str, *, output: str = "", inline: bool = False) -> Iterator[Command]:
    """The commands of a text for the shell: lines, pipes, `&&`."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.shlex(_REDIRECTION.sub("", line), posix=True, punctuation_chars="|&;")
        words.whitespace_split = True
        program: list[str] = []
        before: tuple[str, ...] = ()
        for word in [*words, ";"]:
            if word not in _SEPARATORS:
                program.append(word)
                continue
            command = _command(program, page, line.strip(), before, output, inline)
            before = tuple(program) if word == "|" else ()
            program = []
            if command is not None:
                yield command


def _command(
    words: list[str], page: str, text: str, piped: tuple[str, ...], output: str, inline: bool
) -> Command | None:
    words = [word for word in words if word not in ("do", "done", "…")]  # of a loop; "and so on"
    environment = []
    while words and _ASSIGNMENT.match(words[0]):
        name, _, value = words.pop(0).partition("=")
        environment.append((name, value))
    if not words:
        return None
    return Command(page, text, tuple(words), piped, tuple(environment), output, inline)
