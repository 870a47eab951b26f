"""How far each family is from transformers, printed below the tests that measured it."""

import math
import textwrap
from collections.abc import Callable

import pytest

from tests.families.variants import Variant

RecordError = Callable[[Variant, float], None]
# The property of a test's report, which comes from its worker: (model_type, switch, relative difference).
ERROR = "difference to transformers"


@pytest.fixture
def record_error(record_property: Callable[[str, object], None]) -> RecordError:
    """Takes a variant and its relative difference to transformers, for the summary."""
    return lambda variant, error: record_property(ERROR, (variant.config.model_type, variant.switch, error))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    recorded = [value for report in reports for name, value in report.user_properties if name == ERROR]
    if not recorded:
        return
    terminalreporter.section("largest relative difference to transformers, logits in float32")
    terminalreporter.write_line(f"{'family':<13} difference  switches tested")
    indent = " " * 26
    for family in sorted({model_type for model_type, _, _ in recorded}):
        own = [(switch, error) for model_type, switch, error in recorded if model_type == family]
        worst = math.nan if any(math.isnan(error) for _, error in own) else max(error for _, error in own)
        switches = ", ".join(dict.fromkeys(switch for switch, _ in own))  # in order, each once
        line = f"{family:<13} {worst:>10.1e}  {switches}"
        width = config.get_terminal_writer().fullwidth
        terminalreporter.write_line(
            textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)
        )
