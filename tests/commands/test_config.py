"""Configs: overrides, JSON, and what a wrong key or value gets."""

import dataclasses
import json
import math
import typing
from pathlib import Path

import jax
import numpy as np
import pytest

from specsar_jax import config as configs
from specsar_jax import train
from specsar_jax.config import Config
from specsar_jax.config.settings import field_types
from specsar_jax.network import model
from specsar_jax.trained.run_files import read_config

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def test_override_keeps_the_rest_and_converts():
    config = configs.override(
        Config(), ["optimizer.learning_rate=1", "model.widths=(8,16,40,64)", "data.s2_bands=B2,B3", "data.flips=false"]
    )
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
    assert config.model.widths == (8, 16, 40, 64)
    assert config.data.s2_bands == ("B2", "B3") and config.data.flips is False
    for text in ("(B2,B3)", "('B2','B3')", "(B2, B3,)"):
        assert configs.override(Config(), [f"data.s2_bands={text}"]).data.s2_bands == ("B2", "B3")
    assert configs.override(Config(), ["data.s2_bands=(B2)"]).data.s2_bands == ("B2",)
    assert config.train == Config().train


def test_a_preset_is_a_whole_network_and_later_assignments_change_it():
    config = configs.override(Config(), ["model.widths=(8,16)", "model=tiny", "model.dropout=0.1"])
    assert config == dataclasses.replace(Config(), model=configs.model_preset("tiny", dropout=0.1))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.learning_rat=1", "did you mean 'learning_rate'"),
        ("optimiser.learning_rate=1", "did you mean 'optimizer'"),
        ("optimizer.learning_rate=fast", "expected float"),
        ("train.steps=1.5", "expected int"),
        ("train.steps=True", "expected int"),
        ("data.flips=1", "expected bool, true or false"),
        ("model.widths=64", r"widths \(64,\).*2 to 4 stages"),
        ("model.widths=a,b", "model.widths is 'a', expected int"),
        ("model.learning_rate=1", "did you mean 'optimizer.learning_rate'"),
        ("model.heads=(3,2,5,8)", "16 channels and 3 heads in stage 1, expected heads that divide"),
        ("model.branches=spectral,sar", "expected one of"),
        ("data.sensor_drop=0.7,0.4", "sum up to 1"),
        ("data.sensor_drop=0.7", "0 or 2 numbers"),
        ("data.s2_bands=B2,B2", "each band once"),
        ("data.name=a/b", "expected letters"),
        ("data.name=", "expected letters"),
        ("loss.alpha=0,0,0,0,0,0,0,0,0", "above 0 for some class"),
        ("optimizer.group_rates=decoder", "NAME=FACTOR"),
        ("optimizer.group_rates=decoder=-1", "NAME=FACTOR"),
        ("data.crop_px=12000", "too large for the attention"),
        ("loss.name=focale", "expected one of focal, cross_entropy"),
        ("train", "section.field=value"),
        ("model", "section.field=value"),
        ("model=specsar_fromer", "did you mean 'specsar_former'"),
    ],
)
def test_wrong_override_is_named(assignment, message):
    with pytest.raises(ValueError, match=message):
        configs.override(Config(), [assignment])


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("data.name=2024", "2024"),
        ("data.name='2024'", "2024"),
        ("data.data_dir=/x/a,b", "/x/a,b"),
        ("data.data_dir=(a)", "(a)"),
        ("data.data_dir=it's", "it's"),
        ("data.test_split=", ""),
        ("data.train_split=train[:80%]", "train[:80%]"),
        ("data.s2_bands=B2", ("B2",)),
        ("data.s2_bands=", ()),
        ("data.s2_bands=()", ()),
        ("data.sensor_drop=[0.3, 0]", (0.3, 0.0)),
        ("data.flips=FALSE", False),
        ("train.finetune=true", "true"),
        ("train.seed= 7", 7),
        ("optimizer.learning_rate=1e-3", 1e-3),
        ("optimizer.clip_norm=0", 0.0),
        ("data.zoom=0", 0.0),
        ("optimizer.group_rates=decoder=10,query=.5", ("decoder=10", "query=.5")),
    ],
)
def test_text_is_read_by_the_type_of_its_field(assignment, value):
    section, field = assignment.partition("=")[0].split(".")
    found = getattr(getattr(configs.override(Config(), [assignment]), section), field)
    assert found == value and type(found) is type(value)


FIELDS = [
    (section.name, field, field_types(type(section.default))[field.name])
    for section in dataclasses.fields(Config)
    for field in dataclasses.fields(section.default)
]


def _out_of_range():
    """A value below and, where there is a bound, one above the range of each field that is a number or has numbers."""
    for section, field, kind in FIELDS:
        within, number = (
            field.metadata["within"],
            typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind,
        )
        if number not in (int, float):
            continue
        small = 1 if number is int else 1e-3
        wrong = [number(within.least - small)] if not within.or_zero else [-1, within.least - 1]
        wrong += [] if within.most == math.inf else [number(within.most if within.below else within.most + small)]
        wrong += [math.inf, math.nan] if number is float else []
        for value in wrong:
            default = getattr(getattr(Config(), section), field.name)
            whole = (value, *(default or (value, value))[1:]) if isinstance(default, tuple) else value
            yield pytest.param(section, field.name, whole, id=f"{section}.{field.name}={value}")


@pytest.mark.parametrize(("section", "field", "value"), [*_out_of_range()])
def test_a_value_out_of_range_is_refused_by_name_whoever_gives_it(section, field, value):
    line = f"config field {section}.{field} is"
    with pytest.raises(ValueError, match=line):
        dataclasses.replace(getattr(Config(), section), **{field: value})
    with pytest.raises(ValueError, match=line):
        configs.from_dict({section: {field: value}})
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=line):
        configs.override(Config(), [f"{section}.{field}={text}"])


def test_every_number_has_a_range_and_its_ends_are_taken():
    for section, field, kind in FIELDS:
        within = field.metadata["within"]
        if kind in (int, float):
            assert within.least in within and -1 not in within, field.name
            assert within.below or within.most == math.inf or within.most in within
            default = getattr(getattr(Config(), section), field.name)
            assert default in within
        assert (
            within is not None
            or kind in (bool, str)
            or typing.get_origin(kind) is typing.Literal
            or "s2_bands" in field.name
        )


def test_steps_on_the_command_line_take_the_place_of_a_files_epochs():
    paper = configs.override(Config(), ["train.epochs=200"])
    assert paper.train.epochs == 200
    made = configs.override(paper, ["train.steps=20"])
    assert (made.train.steps, made.train.epochs) == (20, 0)
    with pytest.raises(ValueError, match="give one of them"):
        configs.override(paper, ["train.epochs=3", "train.steps=20"])


def test_numpy_numbers_and_lists_are_taken():
    made = configs.from_dict({"train": {"steps": np.int64(7)}, "data": {"zoom": np.float32(2), "sensor_drop": [0, 1]}})
    assert json.dumps(configs.to_dict(made)) and made.train.steps == 7 and made.data.sensor_drop == (0.0, 1.0)


def test_what_older_versions_took_is_read_back_as_it_is():
    """Their runs and bundles were trained with it; only what a network is used with is checked."""
    tree = {"optimizer": {"clip_norm": -1.0}, "train": {"patience": -1}, "model": {"dropout": 1.5}}
    stored = configs.from_dict(tree, checked=False)
    assert (stored.optimizer.clip_norm, stored.train.patience, stored.model.dropout) == (-1.0, -1, 1.5)
    assert stored.data == Config().data and stored.train.epochs == 0
    configs.check_usable(stored)
    for section, field, value in (
        ("predict", "overlap", 2.0),
        ("train", "eval_batch_size", 0),
        ("model", "mlp_ratio", 0),
    ):
        with pytest.raises(ValueError, match=f"{section}.{field} is"):
            configs.check_usable(configs.from_dict({section: {field: value}}, checked=False))


def test_a_run_of_before_is_read_with_what_it_was_trained_with(tmp_path):
    (tmp_path / "config.json").write_text('{"train": {"patience": -1}, "predict": {"overlap": 2.0}}')
    stored = read_config(tmp_path)
    assert (stored.train.patience, stored.predict.overlap) == (-1, 2.0)
    with pytest.raises(ValueError, match=r"predict.overlap is 2.0, expected 0 to 0.75"):
        dataclasses.replace(stored.predict, window_px=64)


def test_help_lists_every_field_with_default_and_comment(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    told = capsys.readouterr().out
    words = " ".join(told.split())
    for section, field, _ in FIELDS:
        assert f"  {section}.{field.name}=" in told
        assert field.metadata["comment"] in words
    assert "optimizer.learning_rate=0.0005" in told and "model.widths=64,128,320,512" in told


def test_json_round_trip():
    config = configs.override(Config(), ["data.name=a", "model.branches=sar"])
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config
    assert configs.differences(Config(), config) == ["data.name: 'simulated', 'a'", "model.branches: 'both', 'sar'"]


def test_a_network_of_one_stage_is_refused_as_its_map_has_nothing_to_be_resized_to():
    with pytest.raises(ValueError, match=r"not of 2 to 4 stages"):
        configs.Model(widths=(8,), blocks=(1,), heads=(1,), reductions=(8,))


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'specsar_former'"):
        configs.model_preset("specsar_fromer")


@pytest.mark.parametrize("text", ["", "def get_config(): return 1", "def get_config(:", "import no_such_module"])
def test_config_file_that_is_none(tmp_path, text):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.py"):
        configs.load(path)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_config_loads_and_builds_its_network(path):
    config = configs.load(path)
    assert jax.tree.leaves(model.abstract_params(config.model))
