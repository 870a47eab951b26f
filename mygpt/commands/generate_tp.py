"""`mygpt generate_tp`: generate with tensor parallelism, a slice of every matrix on each device."""

from collections.abc import Sequence

from mygpt.commands import generate


def run(arguments: Sequence[str]) -> None:
    """Parse the options, load the model, print its answers."""
    description = "Generate text with a slice of every matrix on each device (tensor parallelism)."
    generate.run(arguments, "generate_tp", description, strategy="tensor")
