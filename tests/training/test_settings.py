"""Recipes: fields set from outside, written as TOML, kept in checkpoints; stages."""

import json
import tomllib
from dataclasses import asdict, fields, is_dataclass

import pytest

from flowkit.errors import UsageError, WeightsError
from flowkit.training.recipes import RECIPES, recipe
from flowkit.training.settings import as_toml, recipe_from, with_settings

SMALL = RECIPES["raft-small"]


def deep_field():
    """The path of some number inside what the engine's settings hold."""
    for outer in fields(SMALL.engine):
        value = getattr(SMALL.engine, outer.name)
        for inner in fields(value) if is_dataclass(value) else ():
            if isinstance(getattr(value, inner.name), float):
                return f"engine.{outer.name}.{inner.name}"
    raise AssertionError("the engine's settings are flat")


DEEP = deep_field()


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("learning_rate=1e-3", "learning_rate", 1e-3),
        ("learning_rate=1", "learning_rate", 1.0),
        ("size=64,96", "size", (64, 96)),
        ("size=[64, 96]", "size", (64, 96)),
        ("betas=0.8,0.9", "betas", (0.8, 0.9)),
        ("precision=fp32", "precision", "fp32"),
        ("iterations=none", "iterations", None),
        ("freeze_batchnorm=true", "freeze_batchnorm", True),
        ("frozen=fnet,cnet.stem", "frozen", ("fnet", "cnet.stem")),
        ("frozen=fnet", "frozen", ("fnet",)),
        ("stages=[]", "stages", ()),
        ("engine.max_displacement=64", "engine.max_displacement", 64.0),
        (f"{DEEP}=0.5", DEEP, 0.5),
        ("stages.1.batch=3", "stages.1.batch", 3),
        ("options.fast=true", "options", {"fast": True}),
    ],
)
def test_fields_are_set_with_their_types(setting, path, value):
    changed = with_settings(SMALL, [setting])
    found = changed
    for name in path.split("."):
        found = found[int(name)] if name.isdigit() else getattr(found, name)
    assert found == value and type(found) is type(value)
    assert with_settings(SMALL, []) == SMALL


def test_settings_hold_at_once_whatever_their_order():
    small = ["stages=[]", "size=96,128", "until=baseline"]  # a student's crop would not fit into that size
    wanted = with_settings(RECIPES["egoflow-cpu"], small)
    assert (wanted.size, wanted.until, wanted.stages) == ((96, 128), "baseline", ())
    assert with_settings(RECIPES["egoflow-cpu"], small[::-1]) == wanted
    with pytest.raises(UsageError, match="crop"):
        with_settings(RECIPES["egoflow-cpu"], small[:2])
    assert with_settings(SMALL, ["batch=2", "stages.0.batch=3", "stages.0.share=2", "batch=4"]) == with_settings(
        SMALL, ["batch=4", "stages.0.share=2", "stages.0.batch=3"]
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("foo=1", "there is no field 'foo'; known: model, source, size"),
        ("engine.foo=1", f"known: {', '.join(field.name for field in fields(SMALL.engine))}"),
        ("engine=1", "fields of its own"),
        ("batch", "field=value"),
        ("batch=0", "batch=0: must be at least 1"),
        ("batch=two", "batch=two"),
        ("precision=fp16", "'bf16' or 'fp32'"),
        ("size=64", "size=64"),
        ("stages.9.batch=3", "counted from 0"),
        ("stages.0.share=0", "share"),
        ("batch.x=3", "nothing of that name"),
        ("ema=2", "between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(setting, words):
    with pytest.raises(UsageError) as refusal:
        with_settings(SMALL, [setting])
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", RECIPES)
def test_toml_holds_every_field_and_what_it_means(name):
    text = as_toml(RECIPES[name])
    read = tomllib.loads(text)
    wanted = json.loads(json.dumps(asdict(RECIPES[name])))

    def without_none(value):
        if isinstance(value, dict):
            return {
                k: without_none(v)
                for k, v in value.items()
                if v is not None and v != {} and not (k == "stages" and v == [])
            }
        return [without_none(v) for v in value] if isinstance(value, list) else value

    assert without_none(read) == without_none(wanted)
    lines = text.splitlines()
    for field in fields(RECIPES[name]):
        places = [
            i for i, line in enumerate(lines) if line.lstrip("# []").startswith((f"{field.name} ", f"{field.name}]"))
        ]
        assert places and any(lines[place - 1].startswith("# ") for place in places), f"{field.name} is not documented"


@pytest.mark.parametrize("name", RECIPES)
def test_a_checkpoint_keeps_the_recipe(name):
    changed = with_settings(RECIPES[name], ["batch=5", "engine.max_displacement=33", "seed=4"])
    saved = json.loads(json.dumps(asdict(changed)))
    assert recipe_from(RECIPES[name], saved) == changed
    assert recipe_from(RECIPES[name], {**saved, "a_field_of_another_version": 1}) == changed
    with pytest.raises(WeightsError, match="batch"):
        recipe_from(RECIPES[name], {**saved, "batch": "many"})


def test_stages_follow_one_another():
    changed = with_settings(SMALL, ["stages.0.share=1", "stages.1.share=1", "stages.2.share=2"])
    assert [changed.stage_at(f) for f in (0, 0.24, 0.25, 0.49, 0.5, 0.99, 1, 1.5)] == [0, 0, 1, 1, 2, 2, 2, 2]
    final = changed.at_stage(2)
    assert final.size == (256, 384) and final.engine.max_displacement == 128 and final.stages == ()
    plain = with_settings(SMALL, ["stages=[]"])
    assert plain.stage_at(0.9) == 0 and plain.at_stage(0) == plain


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="known: raft, raft-small"):
        recipe("raft-smal")


def test_raft_as_published():
    raft = RECIPES["raft"]
    assert (raft.learning_rate, raft.batch, raft.size, raft.weight_decay) == (4e-4, 10, (368, 496), 1e-4)
    assert (raft.iterations, raft.gamma, raft.clip, raft.eps, raft.max_flow) == (12, 0.8, 1.0, 1e-8, 400)
    kitti = RECIPES["raft-kitti"]
    assert (kitti.learning_rate, kitti.batch, kitti.size, kitti.weight_decay) == (1e-4, 6, (288, 960), 1e-5)
    assert (kitti.gamma, kitti.steps, kitti.freeze_batchnorm) == (0.85, 50_000, True)
