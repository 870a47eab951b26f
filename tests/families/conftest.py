"""How far each family is from transformers, printed below the tests that measured it."""

import math
import textwrap
from collections.abc import Callable

import pytest

from tests.families.variants import Variant

RecordError = Callable[[Variant, float], None]
# (variant, relative difference)
ERRORS = pytest.StashKey[list[tuple[Variant, float]]]()


@pytest.fixture
def record_error(request: pytest.FixtureRequest) -> RecordError:
    """Takes a variant and its relative difference to transformers, for the summary."""
    errors = request.config.stash.setdefault(ERRORS, [])
    return lambda variant, error: errors.append((variant, error))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    recorded = config.stash.get(ERRORS, [])
    if not recorded:
        return
    terminalreporter.section("largest relative difference to transformers, logits in float32")
    terminalreporter.write_line(f"{'family':<13} difference  switches tested")
    indent = " " * 26
    for family in sorted({variant.config.model_type for variant, _ in recorded}):
        own = [(variant, error) for variant, error in recorded if variant.config.model_type == family]
        worst = math.nan if any(math.isnan(error) for _, error in own) else max(error for _, error in own)
        switches = ", ".join(dict.fromkeys(variant.switch for variant, _ in own))  # in order, each once
        line = f"{family:<13} {worst:>10.1e}  {switches}"
        width = config.get_terminal_writer().fullwidth
        terminalreporter.write_line(
            textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)
        )
