"""A plugin of pytest: a failure is printed when it happens, because a run that is stopped prints no summary."""

from __future__ import annotations

import pytest

SHOWN = 4000  # characters, the last


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        print(f"\n{report.nodeid}\n{report.longreprtext[-SHOWN:]}", flush=True)
