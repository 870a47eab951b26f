"""Imports torch for a command, so that a Ctrl-C meanwhile is not lost."""


def import_torch() -> None:
    """Import torch, and numpy before it: torch's C++ code imports numpy too, and swallows what interrupts that."""
    import numpy  # noqa: F401
    import torch  # noqa: F401
