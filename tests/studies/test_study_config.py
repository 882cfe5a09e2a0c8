"""A study's file: what a scale adds, what is refused before anything runs, and which runs are the same."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from localvit.locality.localize import localizations
from localvit.models.catalog import PUBLISHED
from localvit.studies.compose import compose, read_yaml
from localvit.studies.config import Claim, StudyConfig
from localvit.studies.running.costs import count
from localvit.system.shipped import shipped
from localvit.training import RunConfig
from localvit.training.initial_model import build_model
from localvit.training.overrides import run_config, with_overrides

STUDIES = sorted((Path(__file__).parents[2] / "src/localvit/studies/questions").glob("*.yaml"))
FILE = """\
name: kernel
question: Does a larger kernel help?
baseline: small
recipe: {model.locality.activation: relu6}
variants:
  small: {}
  large: {model.locality.kernel_size: 5}
scales:
  digits: {seeds: [0, 1], recipe: {training.epochs: 7}, variants: {large: {model.locality.expansion_ratio: 2}}}
  cifar10: {}
"""


def study_at(values: dict[str, Any], scale: str | None = None) -> StudyConfig:
    composed = compose(values, scale)
    claims = [Claim(**claim) for claim in composed.pop("claims", [])]
    return StudyConfig(**{**composed, "recipe": run_config(composed["recipe"]), "claims": claims})


def test_a_study_sets_fields_for_all_variants_for_one_and_for_a_scale() -> None:
    values = yaml.safe_load(FILE)
    digits, cifar10 = study_at(values), study_at(values, "cifar10")
    assert (digits.scale, cifar10.scale) == ("digits", "cifar10")
    assert (digits.seeds, cifar10.seeds) == ([0, 1], [0, 1, 2])
    assert (digits.recipe.data.source, cifar10.recipe.data.source) == ("digits", "parquet")
    assert digits.recipe.training.epochs == 7
    mechanisms = [config.model.locality for config in digits.configs.values()]
    assert [(m.activation, m.kernel_size, m.expansion_ratio) for m in mechanisms if m] == [
        ("relu6", 3, 4.0),
        ("relu6", 5, 2.0),
    ]
    wider = cifar10.variant_config("large").model.locality
    assert wider is not None
    assert wider.expansion_ratio == 4.0


def test_any_recipe_is_a_scale(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: {name: deit_small_patch16_224}\n")
    study = study_at({**yaml.safe_load(FILE), "scales": {}}, str(recipe))
    assert (study.scale, study.recipe.model.name) == ("mine", "deit_small_patch16_224")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"variants": {"small": {}, "large": {"model.locality.kernel_sise": 5}}},
            "Did you mean model.locality.kernel_size?",
        ),
        (
            {"variants": {"small": {}, "large": {"model.locality.kernel_size": 4}}},
            "(?s)variant 'large': .*it must be odd",
        ),
        ({"variants": {"small": {}, "large": {"model.locality.activation": "relu7"}}}, "(?s)variant 'large'.*relu7"),
        (
            {"baseline": "smalls"},
            "baseline is 'smalls'; it must be one of the variants: small, large. Did you mean small",
        ),
        ({"baseline": {"large": "smalls"}}, "baseline of 'large' is 'smalls'"),
        ({"baseline": {"huge": "small"}}, "baseline is 'huge'"),
        ({"claims": [{"better": "large", "than": "tiny"}]}, "a claim is 'tiny'"),
        ({"seeds": [0], "scales": {}}, "an interval needs at least two"),
        ({"seeds": [0, 0, 1], "scales": {}}, "seeds has 0 more than once"),
        ({"chart": "line"}, "a line needs an axis"),
        ({"scales": {"digits": {"recipes": {}}}}, "scales.digits has 'recipes'.*Did you mean recipe?"),
        (
            {"scales": {"digits": {"variants": {"larger": {}}}}},
            "scales.digits.variants has 'larger'.*Did you mean large?",
        ),
        ({"recipe": {"hardware.devices": 2}}, "a run of a study computes on one device"),
        ({"start": {"data.clases": ["1"]}}, "Did you mean data.classes?"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_right_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study_at({**yaml.safe_load(FILE), **change})


def test_an_unknown_scale_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"scale is 'cifar'; it must be one of cifar10, digits, imagenet.*mean cifar10?"
    ):
        compose(yaml.safe_load(FILE), "cifar")


def test_an_override_replaces_what_was_there_and_leaves_its_neighbours() -> None:
    config = with_overrides(RunConfig(), {"model.locality": {"kernel_size": 5}, "model.locality.se_reduction": 8})
    assert config.model.locality is not None
    assert (config.model.locality.kernel_size, config.model.locality.se_reduction) == (5, 8)
    again = with_overrides(config, {"model.locality": {"activation": "silu"}, "model.arguments.depth": 3})
    assert again.model.locality is not None
    assert (again.model.locality.kernel_size, again.model.locality.activation) == (3, "silu")
    assert again.model.arguments == {"depth": 3}
    assert with_overrides(again, {"model.locality": None}).model.locality is None
    assert config.model.locality.kernel_size == 5


def test_the_same_run_of_two_studies_is_one_run(tmp_path: Path) -> None:
    rq1, rq2c = (study_at(read_yaml(path)) for path in STUDIES if path.stem in ("rq1_depthwise", "rq2c_expansion"))
    runs = {(study.name, run.variant, run.seed): run.folder for study in (rq1, rq2c) for run in study.runs(tmp_path)}
    assert runs["rq1_depthwise", "depth-wise + h-swish", 1] == runs["rq2c_expansion", "gamma 4", 1]
    assert len(set(runs.values())) == len(runs) - 3


def test_runs_that_start_from_another_depend_on_all_of_it(tmp_path: Path) -> None:
    values = read_yaml(next(path for path in STUDIES if path.stem == "pretrained"))
    first = study_at(values).runs(tmp_path)
    start, *others = first[:5]
    assert start.variant is None
    assert {run.after for run in others} == {start}
    assert others[0].config.model.checkpoint == str(start.folder / "last.safetensors")
    longer = yaml.safe_load(yaml.safe_dump(values))
    longer["scales"]["digits"]["start"]["training.epochs"] = 99
    changed = study_at(longer).runs(tmp_path)
    assert {run.folder.name for run in first}.isdisjoint(run.folder.name for run in changed)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", shipped("scale"))
def test_every_study_builds_every_variant_at_every_scale(path: Path, scale: str) -> None:
    study = study_at(read_yaml(path), scale)
    assert study.name == path.stem
    assert f"localvit study {path.stem}" in path.read_text()
    for name, config in study.configs.items():
        model = build_model(with_overrides(config, {"model.pretrained": False}).model, config.input, num_classes=10)
        baseline = study.baseline_of(name)
        if baseline is None:
            continue
        # A variant and its baseline differ in the feed-forward networks and in nothing else.
        theirs = study.variant_config(baseline)
        differences = {field for field, value in config.to_dict().items() if value != theirs.to_dict()[field]}
        assert differences == {"model"}
        assert localizations(model) or name == study.baseline


# Parameters and multiply-accumulates of the authors' models at 224 x 224 with 1000 classes.
AUTHORS = {
    ("rq1_depthwise", "DeiT"): (5_717_416, 1_253_683_200),
    ("rq1_depthwise", "no depth-wise"): (5_724_328, 1_250_144_256),
    ("rq1_depthwise", "depth-wise + ReLU6"): (5_825_704, 1_266_401_280),
    ("rq1_depthwise", "depth-wise + h-swish + SE"): (5_908_696, 1_266_475_008),
    ("rq2a_activation", "h-swish + ECA"): (5_825_764, 1_266_447_360),
    ("rq2a_activation", "h-swish + SE, r = d/2"): (5_982_472, 1_266_548_736),
    ("rq2a_activation", "h-swish + SE, r = d/4"): (6_130_024, 1_266_696_192),
    ("rq2a_activation", "h-swish + SE, r = 4"): (9_376_168, 1_269_940_224),
    ("rq2b_placement", "nowhere"): (5_724_328, 1_250_144_256),
    ("rq2b_placement", "all"): (5_825_704, 1_266_401_280),
    ("rq2c_expansion", "gamma 1"): (3_081_640, 733_983_744),
    ("rq2c_expansion", "gamma 2"): (3_996_328, 911_456_256),
    ("rq2c_expansion", "gamma 3"): (4_911_016, 1_088_928_768),
    ("rq2c_expansion", "gamma 6"): (7_655_080, 1_621_346_304),
    ("rq3_architectures", "T2T-ViT"): (4_310_222, 1_146_863_616),
    ("rq3_architectures", "LocalViT-T2T"): (4_385_386, 1_153_637_376),
    ("rq3_architectures", "PVT"): (13_229_288, 1_932_911_616),
    ("rq3_architectures", "LocalViT-PVT"): (13_456_152, 1_978_493_952),
    ("rq3_architectures", "TNT"): (6_069_784, 1_403_721_984),
    ("rq3_architectures", "LocalViT-TNT"): (6_261_064, 1_416_513_792),
    ("rq3_architectures", "Swin"): (28_288_354, 4_490_566_656),
    ("rq3_architectures", "LocalViT-Swin"): (29_079_010, 4_542_612_480),
}


@pytest.mark.parametrize(("study", "variant"), AUTHORS)
def test_at_the_papers_scale_variants_cost_what_the_authors_models_do(study: str, variant: str) -> None:
    path = next(path for path in STUDIES if path.stem == study)
    costs = count(study_at(read_yaml(path), "imagenet").variant_config(variant), 1000)
    assert (costs.parameters, costs.macs) == AUTHORS[study, variant]


def test_the_papers_gains_are_those_of_its_tables() -> None:
    top1 = {published.name: published.top1 for published in PUBLISHED}
    study = study_at(read_yaml(next(path for path in STUDIES if path.stem == "rq3_architectures")), "imagenet")
    localvit = {"LocalViT": "localvit_tiny_patch16_224"}
    for claim in study.claims:
        better = localvit.get(claim.better, study.variant_config(claim.better).model.name)
        ours, theirs = top1[better], top1[study.variant_config(claim.than).model.name]
        if ours is not None and theirs is not None:
            assert claim.points == pytest.approx(ours - theirs, abs=0.06)
