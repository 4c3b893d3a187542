"""A ladder by its real command: every rung, fold and seed is trained once, and one table comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers_training import SIZE, tiny

from mtaclip_core import ablate
from mtaclip_core.ablation_table import markdown, summarise
from mtaclip_core.cli import UserError
from mtaclip_core.config import TextConfig
from mtaclip_core.data.synthetic.writer import write


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generated images."""
    folder = tmp_path_factory.mktemp("street")
    write(folder, 2, SIZE, 7, "train", 2)
    return folder


def write_ladder(folder: Path, street: Path, **changes: object) -> Path:
    values = tiny(street, batch=2)
    values["loss"] = {"points": 64}
    values["validation"] = values["train"][0]
    (folder / "base.yaml").write_text(yaml.safe_dump(values))
    ladder = {
        "config": "base.yaml",
        "rungs": {"baseline": ["model.text.source=none"], "+decoder": ["loss.contrastive_weight=0"]},
    }
    path = folder / "ladder.yaml"
    path.write_text(yaml.safe_dump(ladder | changes, sort_keys=False))
    return path


def test_a_ladder_becomes_one_table_and_is_gone_on_with(
    tmp_path: Path, street: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--ladder", str(write_ladder(tmp_path, street)), "--seeds", "1", "--out", str(tmp_path / "out")]
    assert ablate.main([*arguments, "--jobs", "2"]) == 0
    table = capsys.readouterr().out
    assert table == (tmp_path / "out" / "table.md").read_text()
    assert table.startswith("**Text source** - none: baseline; learned: +decoder.")
    assert "| baseline | none |" in table and "| +decoder | learned | 2 |" in table
    assert f"python -m mtaclip_core.ablate --ladder {tmp_path / 'ladder.yaml'} --seeds 1" in table

    data = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [r["rung"] for r in data["rungs"]] == ["baseline", "+decoder"]
    first = tmp_path / "out" / "baseline" / "all" / "seed0"
    assert data["rungs"][0]["median"] == json.loads((first / "result.json").read_text())["miou"] * 100

    # One run is missing: it alone is trained again.
    (tmp_path / "out" / "decoder" / "all" / "seed0" / "result.json").unlink()
    (tmp_path / "out" / "decoder" / "all" / "seed0" / "checkpoints" / "last.safetensors").unlink()
    before = (first / "train.log").stat().st_mtime_ns
    ablate.main(arguments)
    assert (first / "train.log").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out" / "table.json").read_text())["rungs"] == data["rungs"]

    with pytest.raises(UserError, match=r"was trained with another optimiser\.lr; use another --out"):
        ablate.main([*arguments, "optimiser.lr=1e-5"])


def test_a_rung_that_fails_is_one_line_with_the_log(tmp_path: Path, street: Path) -> None:
    ladder = write_ladder(tmp_path, street, rungs={"bad": ["train.0.data=camvid:/nowhere"]})
    with pytest.raises(UserError, match=r"rung bad, fold all, seed 0 failed \(.*train\.log\): error: /nowhere"):
        ablate.main(["--ladder", str(ladder), "--seeds", "1", "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rungs": {"a": ["steps"]}}, "rungs: a: expected a list of key=value"),
        ({"rungs": {"a": ["stepz=1"]}}, "did you mean 'steps'"),
        ({"rungs": {"a": ["validation="]}}, "rung a names no validation data"),
        ({"rungs": {"a b": [], "a+b": []}}, "the same name but for signs"),
        ({"rung": {}}, "unknown key 'rung'"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"against": "last"}, "against is 'last'; expected previous or first"),
        ({"rungs": []}, "expected `config: FILE` and `rungs"),
    ],
)
def test_a_wrong_ladder_is_one_line(tmp_path: Path, street: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ladder = ablate.load_ladder(write_ladder(tmp_path, street, **changes))
        ablate.plan(ladder, 1, tmp_path, [])


def test_a_seeds_score_is_its_mean_over_the_folds_and_gains_are_paired() -> None:
    scores = {
        ("a", "x", 0): 0.10, ("a", "y", 0): 0.30, ("a", "x", 1): 0.20, ("a", "y", 1): 0.60,
        ("b", "x", 0): 0.15, ("b", "y", 0): 0.30, ("b", "x", 1): 0.30, ("b", "y", 1): 0.50,
    }  # fmt: skip
    texts = {"a": TextConfig(source="none"), "b": TextConfig(source="clip", clip_pretrained="openai")}
    summary = summarise(scores, texts, ["x", "y"], 2)
    first, second = summary["rungs"]
    assert (first["median"], first["min"], first["max"]) == pytest.approx((30, 20, 40))
    assert first["folds"] == pytest.approx({"x": 15, "y": 45})
    assert second["gain"] == {"median": pytest.approx(2.5), "better": 2, "of": 4}
    scores |= {("c", fold, seed): scores["a", fold, seed] - 0.01 for fold in "xy" for seed in range(2)}
    gains = [
        summarise(scores, texts | {"c": TextConfig(source="none")}, ["x", "y"], 2, against)["rungs"][2]["gain"][
            "median"
        ]
        for against in ("previous", "first")
    ]
    assert gains == pytest.approx([-3.5, -1])
    table = markdown(summary, "python ...", "ladder.yaml")
    assert table.startswith("**Text source** - none: a; clip (RN50, openai): b.")
    assert "| a | none |  | 30.00 | 20.00 | 40.00 | 15.00 | 45.00 |  |" in table
