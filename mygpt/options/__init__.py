"""The options of the commands, each described once: the docstrings are what `--help` prints.

Nothing heavy is imported here, not even for type checkers: jsonargparse follows those imports too.
"""

from mygpt.options.checks import (
    CHOICES,
    COMMAND_STRATEGIES,
    DTYPE_NAMES,
    TYPE_WORDS,
    check_choice,
    check_types,
    choices,
)
from mygpt.options.generating import ChatOptions, GenerateOptions, ReplOptions, check_one_drafter
from mygpt.options.loading import PRECISION_ALIASES, LoadOptions
from mygpt.options.planning import PlanOptions
from mygpt.options.sampling import Sampling, SamplingOptions

__all__ = [
    "CHOICES",
    "COMMAND_STRATEGIES",
    "DTYPE_NAMES",
    "PRECISION_ALIASES",
    "TYPE_WORDS",
    "ChatOptions",
    "GenerateOptions",
    "LoadOptions",
    "PlanOptions",
    "ReplOptions",
    "Sampling",
    "SamplingOptions",
    "check_choice",
    "check_one_drafter",
    "check_types",
    "choices",
]
