"""Progress in a pipe: a line when it begins, then at most one in ten seconds, however often it is told."""

from __future__ import annotations

import pytest

from rfctl.cli import progress


def test_at_most_one_line_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines: list[str] = []
    with progress.ConsoleReporter("en", lines.append).stage("upload.stage-parse", unit="pages") as stage:
        for second in range(61):
            now = 100.0 + second
            stage.update(done=second, total=60, detail=f"a.pdf: line {second}")
    assert lines[0] == "Parsing …"
    assert len(lines) == 7
    assert lines[-1] == "Parsing  60 / 60 pages  a.pdf: line 60"
