"""`mygpt generate_sequentially`: generate with the layers partitioned over several devices, run in turn."""

from functools import partial

from mygpt.commands import generate

build_parser = partial(generate.build_parser, "generate_sequentially")
run = partial(generate.run, command="generate_sequentially")
