"""mygpt runs decoder-only language models. `from mygpt import LLM` is its Python API."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mygpt.llm import LLM

__all__ = ["LLM", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily, so that `import mygpt` and `mygpt --help` need not wait for torch.
    if name == "LLM":
        from mygpt.llm import LLM

        return LLM
    raise AttributeError(f"module 'mygpt' has no attribute {name!r}")
