"""Every system is shown in miniature, by the command that shows it in full."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.systems import __main__ as command
from lab.systems.shown import Shown


@pytest.mark.slow
@pytest.mark.parametrize("name", command.names())
def test_a_system_prints_its_claim_and_keeps_its_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lab.systems", name, "--short", "--out", str(tmp_path), "--commit", "none"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    record = json.loads((tmp_path / f"systems-{name}-short.json").read_text())
    assert not (tmp_path / f"systems-{name}.json").exists(), "what is committed stays as it is"
    assert ended.value.code == (0 if record["holds"] else 1)
    assert record["claim"] in capsys.readouterr().out


def test_what_does_not_hold_is_said() -> None:
    shown = Shown("Water flows uphill.", False, [("slope", "flow"), ("1", "-1")], {})
    assert shown.as_text().startswith("Water flows uphill. It does not hold.\n\n| slope | flow |")
