"""`mygpt generate_tp`: generate with tensor parallelism, a slice of every matrix on each device."""

from functools import partial

from mygpt.commands import generate

build_parser = partial(generate.build_parser, "generate_tp")
run = partial(generate.run, command="generate_tp")
