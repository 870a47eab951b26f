"""`mygpt generate_sequentially`: generate with the layers partitioned over several devices, run in turn."""

from collections.abc import Sequence

from mygpt.commands import generate


def run(arguments: Sequence[str]) -> None:
    """Parse the options, load the model, print its answers."""
    description = "Generate text with the layers on several devices, which work in turn."
    generate.run(arguments, "generate_sequentially", description, strategy="sequential")
