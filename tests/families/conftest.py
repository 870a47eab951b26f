"""How far each family is from transformers, printed below the tests that measured it."""

import math
from collections.abc import Callable

import pytest

RecordError = Callable[[str, float], None]
# (family, test, relative difference)
ERRORS = pytest.StashKey[list[tuple[str, str, float]]]()


@pytest.fixture
def record_error(request: pytest.FixtureRequest) -> RecordError:
    """Takes a model_type and a relative difference to transformers, for the summary."""
    errors = request.config.stash.setdefault(ERRORS, [])
    return lambda family, error: errors.append((family, request.node.name, error))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    recorded = config.stash.get(ERRORS, [])
    if not recorded:
        return
    terminalreporter.section("largest relative difference to transformers, logits in float32")
    terminalreporter.write_line(f"{'family':<20} {'variants':>8} {'difference':>10}")
    for family in sorted({family for family, _, _ in recorded}):
        variants = {test for name, test, _ in recorded if name == family}
        errors = [error for name, _, error in recorded if name == family]
        worst = math.nan if any(map(math.isnan, errors)) else max(errors)
        terminalreporter.write_line(f"{family:<20} {len(variants):>8} {worst:>10.1e}")
