"""The valid files that cases begin with: a folder of files for each name, made once a run."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

Files = dict[str, bytes]


class Bases:
    """The folders that `build` made, as contents of files by name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.names = sorted(str(path.parent.relative_to(root)) for path in root.rglob(".base"))
        self.get = cache(self._read)

    def under(self, prefix: str) -> list[str]:
        """The names that begin so."""
        return [name for name in self.names if name.startswith(prefix)]

    def _read(self, name: str) -> Files:
        return {path.name: path.read_bytes() for path in sorted((self._root / name).glob("[!.]*"))}


def build(root: Path) -> None:
    """Make all of them; takes some seconds and imports transformers."""
    from tests.fuzz import base_models, base_tokenizers

    makers: dict[str, Callable[[Path], None]] = {**base_models.makers(), **base_tokenizers.makers()}
    for name, make in makers.items():
        folder = root / name
        folder.mkdir(parents=True)
        make(folder)
        (folder / ".base").touch()


if __name__ == "__main__":
    build(Path(sys.argv[1]))
