"""The evaluation command as a user runs it, and the official Cityscapes script beside it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mtaclip_core import evaluate
from mtaclip_core.cli import run
from mtaclip_core.comparison import official_script


def evaluated(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """What `evaluate` writes as JSON; nothing else may lie beside it."""
    out = tmp_path / "out" / "result.json"
    assert evaluate.main([*map(str, arguments), "--json", str(out)]) == 0
    assert [p.name for p in out.parent.iterdir()] == ["result.json"]
    return json.loads(out.read_text())


def failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line on stderr of a command that must exit with code 2."""
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run(evaluate.main)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    lines = [line for line in lines if line and not line.startswith("evaluate: ")]  # the progress bar
    assert len(lines) == 1
    return lines[0]


def official_scores(predictions: Sequence[Path], truths: Sequence[Path]) -> dict[str, Any]:
    """What the script finds; the test is skipped where it is not installed."""
    pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="cityscapesscripts, or pyquaternion for it, is not installed",
    )
    return official_script.scores([*map(str, predictions)], [*map(str, truths)])


def same_scores(ours: Any, theirs: Any, what: str = "") -> None:
    """All numbers within 1e-9, None where the script has NaN, the same keys."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs), what
        for name, value in theirs.items():
            same_scores(ours[name], value, f"{what} {name}")
    elif isinstance(theirs, list):
        assert ours == theirs, what
    elif ours is None:
        assert math.isnan(theirs), what
    else:
        assert ours == pytest.approx(theirs, abs=1e-9), what
