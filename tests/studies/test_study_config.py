"""A study's file: what a scale adds, what is refused before anything runs, and which runs are the same."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from study_files import shipped_study, study_at
from torch import nn
from torch.overrides import TorchFunctionMode

from localvit.locality.localize import localizations
from localvit.models.catalog import PUBLISHED
from localvit.studies.choice import runs_of
from localvit.studies.compose import compose, read_yaml
from localvit.studies.running.costs import count
from localvit.system.shipped import shipped
from localvit.training import RunConfig
from localvit.training.initial_model import build_model
from localvit.training.overrides import with_overrides

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
        ({"claims": [{"better": "large", "than": "tiny"}]}, "a claim names 'tiny'"),
        ({"prices": [{"of": "larg", "than": "small", "macs": 1.1}]}, "a price is 'larg'.*Did you mean large"),
        ({"isolates": {"large": "tiny"}}, r"isolates\['large'\] is 'tiny'"),
        ({"margin": -1}, "margin is -1; it must be more than 0"),
        ({"looks": [2, 2]}, "looks is .2, 2.; give ascending numbers of seeds, at least two"),
        ({"looks": [1]}, "looks is .1.; give ascending numbers"),
        (
            {"sweep": {"groups": {"a": ["small"]}, "grid": [0.1, 0.2], "seeds": [0]}},
            "seed 0 is in seeds and in sweep.seeds; runs that choose must not judge",
        ),
        ({"sweep": {"groups": {"a": ["small", "tiny"]}, "grid": [0.1, 0.2]}}, "a is 'tiny'"),
        ({"sweep": {"groups": {"a": ["small"], "b": ["small"]}, "grid": [0.1, 0.2]}}, "every variant belongs to one"),
        ({"sweep": {"groups": {"a": ["small"]}, "grid": [0.1]}}, "give at least two different values"),
        ({"grid": {"axis": "data.train_images", "points": [{"training.epochs": 9}]}}, "its point .* does not set it"),
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


@pytest.mark.parametrize(
    "change",
    [
        {"variants": 3},
        {"variants": {"a": 3}, "scales": None},
        {"recipe": "x"},
        {"scales": []},
        {"landmarks": [1]},
        {"scales": {"digits": 1}},
    ],
)
def test_parts_of_another_type_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"of a study is .*; it must map names to values"):
        compose(yaml.safe_load(FILE) | change, "digits")


@pytest.mark.parametrize("grid", [1, [], {}, {"axis": "x"}, {"axis": "x", "points": [3]}])
def test_a_grid_of_another_form_is_named(grid: Any) -> None:
    with pytest.raises(ValueError, match="grid"):
        compose(yaml.safe_load(FILE) | {"grid": grid}, "digits")


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
    names = ("rq2a_activation", "rq2c_expansion")
    rq2a, rq2c = (shipped_study(path) for path in STUDIES if path.stem in names)
    runs = {(study.name, run.variant, run.seed): run.folder for study in (rq2a, rq2c) for run in study.runs(tmp_path)}
    assert runs["rq2a_activation", "h-swish", 1] == runs["rq2c_expansion", "gamma 4", 1]
    shared = 4 * len(rq2a.seeds)  # the network with gamma 4, and its three controls
    assert len(set(runs.values())) == len(runs) - shared


def test_runs_that_start_from_another_depend_on_all_of_it(tmp_path: Path) -> None:
    values = read_yaml(next(path for path in STUDIES if path.stem == "pretrained"))
    first = study_at(values).runs(tmp_path)
    start, *others = first[:6]
    assert start.variant is None
    assert {run.after for run in others} == {start}
    assert others[0].config.model.checkpoint == str(start.folder / "last.safetensors")
    longer = yaml.safe_load(yaml.safe_dump(values))
    longer["scales"]["cifar10"]["start"]["training.epochs"] = 99
    changed = study_at(longer).runs(tmp_path)
    assert {run.folder.name for run in first}.isdisjoint(run.folder.name for run in changed)


SWEEP = {"grid": [0.001, 0.01], "groups": {"one": ["small"], "two": ["large"]}, "seeds": [7, 8]}


def test_a_sweep_has_the_same_runs_for_every_group_and_sees_no_test_image(tmp_path: Path) -> None:
    study = study_at({**yaml.safe_load(FILE), "sweep": SWEEP})
    runs = study.sweep_runs(tmp_path)
    assert list(runs) == ["one", "two"]
    for group, variant in (("one", "small"), ("two", "large")):
        assert list(runs[group]) == [0.001, 0.01]
        for value, of_value in runs[group].items():
            assert [run.seed for run in of_value] == [7, 8]
            for run in of_value:
                assert run.config.training.learning_rate == value
                assert (run.config.data.validation, run.config.training.score_test) == (0.2, False)
                assert run.config.model == study.variant_config(variant).model
    assert {run.folder for values in runs.values() for of_value in values.values() for run in of_value}.isdisjoint(
        run.folder for run in study.runs(tmp_path)
    )


def test_a_sweep_starts_from_weights_of_its_own_seeds_if_the_study_starts_from_weights(tmp_path: Path) -> None:
    study = study_at({**yaml.safe_load(FILE), "sweep": SWEEP, "start": {"training.epochs": 90}})
    starts, swept = runs_of(study.sweep_runs(tmp_path))[:2], runs_of(study.sweep_runs(tmp_path))[2:]
    assert [(start.variant, start.seed, start.config.training.epochs) for start in starts] == [
        (None, 7, 90),
        (None, 8, 90),
    ]
    assert len(swept) == 8
    weights = {start.seed: str(start.folder / "last.safetensors") for start in starts}
    for run in swept:
        assert run.after in starts
        assert run.config.model.checkpoint == weights[run.seed]


def test_choices_of_a_sweep_set_the_field_of_their_group_and_nothing_else() -> None:
    study = study_at({**yaml.safe_load(FILE), "sweep": SWEEP})
    chosen = study.with_choices({"one": 0.001, "two": 0.01})
    assert [config.training.learning_rate for config in chosen.configs.values()] == [0.001, 0.01]
    for name, config in chosen.configs.items():
        before = study.variant_config(name)
        assert with_overrides(config, {"training.learning_rate": before.training.learning_rate}) == before


def test_the_hash_of_a_plan_depends_on_all_but_the_place_of_the_images() -> None:
    values = yaml.safe_load(FILE)
    plan = study_at(values).plan_hash()
    assert study_at({**values, "recipe": {**values["recipe"], "data.root": "/elsewhere"}}).plan_hash() == plan
    for change in (
        {"claims": [{"better": "large", "than": "small"}]},
        {"margin": 0.5},
        {"looks": [2]},
        {"recipe": {"training.epochs": 3}},
        {"sweep": SWEEP},
    ):
        assert study_at({**values, **change}).plan_hash() != plan, change


def test_a_grid_makes_a_curve_of_every_variant() -> None:
    points = [{"data.train_images": images, "training.epochs": epochs} for images, epochs in ((100, 28), (200, 14))]
    values = {
        **yaml.safe_load(FILE),
        "grid": {"axis": "data.train_images", "points": points},
        "isolates": {"large": "small"},
        "claims": [{"better": "large", "than": "small", "slope": "data.train_images"}],
        "sweep": {**SWEEP, "groups": {"all": ["small", "large"]}},
    }
    study = study_at(values)
    assert list(study.variants) == ["small, 100", "small, 200", "large, 100", "large, 200"]
    assert study.baseline_of("large, 200") == "small, 200"
    assert study.baseline_of("small, 200") is None
    assert study.curves == {"small": ["small, 100", "small, 200"], "large": ["large, 100", "large, 200"]}
    assert study.isolates == {"large, 100": "small, 100", "large, 200": "small, 200"}
    assert (study.chart, study.axis) == ("curves", "data.train_images")
    config = study.variant_config("large, 100")
    assert (config.data.train_images, config.training.epochs) == (100, 28)
    assert config.model.locality is not None
    assert config.model.locality.kernel_size == 5
    ((slope,),) = study.contrasts
    assert slope.weights == {"large, 100": -1, "large, 200": 1, "small, 100": 1, "small, 200": -1}
    assert study.sweep is not None
    assert study.sweep.groups["all"][0] == "small, 200", "the middle point of the first variant is swept"


def test_landmarks_are_variants_of_one_scale(tmp_path: Path) -> None:
    values = yaml.safe_load(FILE)
    values["scales"]["digits"]["landmarks"] = {"linear": {"model.name": "linear_classifier"}}
    digits, cifar10 = study_at(values), study_at(values, "cifar10")
    assert (digits.landmarks, cifar10.landmarks) == (["linear"], [])
    assert list(digits.variants) == ["small", "large", "linear"]
    assert [str(claim) for claim in digits.tested] == ["large against small"]


class _NoInitialValues(TorchFunctionMode):
    """Tensors on the meta device have no values, and pretending to draw them takes most of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("uniform_", "erfinv_", "mul_", "add_", "clamp_", "normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_BUILT: dict[str, nn.Module] = {}


def model_of(config: RunConfig) -> nn.Module:
    """The model of a run without its weights; many runs of many studies have the same."""
    model = replace(config.model, pretrained=False)
    key = json.dumps([asdict(model), asdict(config.input)])
    if key not in _BUILT:
        with torch.device("meta"), _NoInitialValues():
            _BUILT[key] = build_model(model, config.input, num_classes=10)
    return _BUILT[key]


# Each study at the scales that its file names; the other scales are at most one --scale away, and slow.
AT_SCALES = [
    pytest.param(path, scale, id=f"{path.stem}-{scale}", marks=[] if scale in named else pytest.mark.slow)
    for path in STUDIES
    for named in [read_yaml(path).get("scales") or {"digits": {}}]
    for scale in shipped("scale")
]

# Variants that do not train as long as their baseline.
OTHER_DIFFERENCES = {
    ("equal_time", "depth-wise"): {"model", "training"},
    ("rq1_trained", "DeiT, twice the steps"): {"training"},
    ("rq1_trained", "small ResNet"): {"model", "training"},
}


@pytest.mark.parametrize(("path", "scale"), AT_SCALES)
def test_every_study_builds_every_variant_at_every_scale(path: Path, scale: str) -> None:
    study = shipped_study(path, scale)
    assert study.name == path.stem
    assert f"localvit study {path.stem}" in path.read_text()
    for name, config in study.configs.items():
        model, baseline = model_of(config), study.baseline_of(name)
        if baseline is None:
            continue
        # A variant and its baseline differ in the feed-forward networks and in nothing else.
        theirs = study.variant_config(baseline).to_dict()
        differences = {field for field, value in config.to_dict().items() if value != theirs[field]}
        assert differences == OTHER_DIFFERENCES.get((study.name, name), {"model"})
        assert localizations(model) or name in study.landmarks or "model" not in differences


ISOLATING = [case for case in AT_SCALES if str(case.id).startswith(("rq", "curve"))]


@pytest.mark.parametrize(("path", "scale"), ISOLATING)
def test_the_control_of_a_network_with_locality_differs_from_it_in_locality_alone(path: Path, scale: str) -> None:
    study = shipped_study(path, scale)
    assert study.isolates
    for name, control in study.isolates.items():
        ours, permuted = (model_of(study.variant_config(variant)) for variant in (name, control))
        shapes, theirs = ({key: value.shape for key, value in model.state_dict().items()} for model in (ours, permuted))
        assert shapes == theirs
        assert any(call.config.permuted for call in localizations(permuted))
        assert localizations(ours) == [
            replace(call, config=replace(call.config, permuted=False)) for call in localizations(permuted)
        ]


# Parameters and multiply-accumulates of the authors' models at 224 x 224 with 1000 classes.
AUTHORS = {
    ("rq1_depthwise", "DeiT"): (5_717_416, 1_253_683_200),
    ("rq1_depthwise", "no depth-wise"): (5_724_328, 1_250_144_256),
    ("rq1_depthwise", "depth-wise"): (5_825_704, 1_266_401_280),
    ("rq2a_activation", "h-swish + SE, r = d"): (5_908_696, 1_266_475_008),
    ("rq2a_activation", "h-swish"): (5_825_704, 1_266_401_280),
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
    costs = count(shipped_study(path, "imagenet").variant_config(variant), 1000)
    assert (costs.parameters, costs.macs) == AUTHORS[study, variant]


def test_the_papers_gains_are_those_of_its_tables() -> None:
    top1 = {published.name: published.top1 for published in PUBLISHED}
    study = study_at(read_yaml(next(path for path in STUDIES if path.stem == "rq3_architectures")), "imagenet")
    localvit = {"LocalViT": "localvit_tiny_patch16_224"}
    points = {
        name: value for claim in study.claims if isinstance(claim.points, dict) for name, value in claim.points.items()
    }
    assert len(points) == 5
    for name, value in points.items():
        better = localvit.get(name, study.variant_config(name).model.name)
        baseline = study.baseline_of(name)
        assert baseline is not None
        ours, theirs = top1[better], top1[study.variant_config(baseline).model.name]
        if ours is not None and theirs is not None:
            assert value == pytest.approx(ours - theirs, abs=0.06)
