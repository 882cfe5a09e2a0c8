"""A recipe names no code: what looks like a class to build stays a plain value."""

from pathlib import Path

import pytest
import yaml

from localvit.commands import train
from localvit.commands.cli import main
from localvit.training.overrides import run_config


def hostile(canary: Path) -> dict[str, object]:
    return {"class_path": "logging.FileHandler", "init_args": {"filename": str(canary)}}


def test_a_recipe_builds_no_object(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    arguments = {"x": hostile(canary), "y": [hostile(canary)]}
    assert run_config({"model": {"arguments": arguments}}).model.arguments == arguments
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": {"arguments": arguments}}))
    parsed = train.parser().parse(train.arguments([str(tmp_path / "recipe.yaml")]))
    assert parsed.model.arguments == arguments
    assert not canary.exists()


@pytest.mark.parametrize("group", ["training", "data", "input"])
def test_a_group_of_fields_without_fields_is_named(
    group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(f"seed: 1\n{group}:\n")
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "recipe.yaml")])
    assert f"{group} is None; it must map the names of its fields to values" in capsys.readouterr().err


def test_a_recipe_with_values_without_end_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    (tmp_path / "recipe.yaml").write_text(f"a0: &a0 [x]\n{laughs}")
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "recipe.yaml")])
    assert "recipe.yaml has more than 2,000,000 values" in capsys.readouterr().err
