"""How many of the pages' commands were tried, and how, printed below the tests that did."""

from collections import Counter

import pytest

TRIED = "command of a page"  # the property of a test's report, which comes from its worker


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    reports = {
        outcome: terminalreporter.getreports(outcome)
        for outcome in ("passed", "failed", "xfailed", "xpassed")
    }
    ways = {
        outcome: [value for report in some for name, value in report.user_properties if name == TRIED]
        for outcome, some in reports.items()
    }
    total = sum(map(len, ways.values()))
    if total:
        good = ways["passed"] + ways["xpassed"]
        counts = ", ".join(f"{count} {way}" for way, count in Counter(map(str, good)).most_common())
        terminalreporter.section("commands of README.md, tutorials/, config_hub/ and the source pages")
        terminalreporter.write_line(f"{len(good)} of {total}: {counts}")
