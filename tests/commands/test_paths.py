"""Paths among the arguments of commands and in configs: what is expanded, and what is refused before any work."""

import os
from pathlib import Path

import pytest
from conftest import command, refused, small_config

import specsar_jax
from specsar_jax.config.files import QUICKSTART, config_file
from specsar_jax.trained import hub, run_files
from specsar_jax.training import loop
from tfds_dwplus import DynamicWorldPlusConfig
from tfds_dwplus.command_line import local_path, path_or_address
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import open_dataset, read_split

ADDRESSES = ("abfs://box/run", "file:///run", "hub:owner/name", "/vsigs/box/run")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", "a"),
        ("a:b/c", "a:b/c"),
        ("/x//y", "/x/y"),
        ("~", "/home/anna"),
        ("~/x", "/home/anna/x"),
        (Path("~/x"), "/home/anna/x"),
        ("x/~", "x/~"),
        ("./~x", "HERE/~x"),
    ],
)
def test_a_path(given, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert str(local_path(given)) == expected.replace("HERE", str(Path.cwd()))


@pytest.mark.parametrize("given", ADDRESSES)
def test_an_address_is_no_path(given):
    with pytest.raises(ValueError, match="is an address, expected a path"):
        local_path(given)
    with pytest.raises(ValueError, match="is an address, expected a path"):
        local_path(Path(given))  # of which `Path` has made abfs:/box/run


def test_an_empty_path_or_an_unknown_home_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="variable of the shell"):
        local_path("")
    with pytest.raises(ValueError, match="~nobody-of-this-name/x: the home folder is not known"):
        local_path("~nobody-of-this-name/x")


def test_imagery_may_be_on_the_web_and_a_network_on_a_hub(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    for address in ("https://a.b/c//d.tif?e=~", "/vsizip//x/a.zip/d.tif"):
        assert path_or_address(address) == address
    assert path_or_address("~/s2.tif") == "/home/anna/s2.tif"
    assert str(hub.network("hub:owner/name")) == "hub:owner/name"
    assert str(hub.network("~/run")) == "/home/anna/run"


@pytest.mark.parametrize(
    "arguments",
    [
        ("tfds_dwplus.prepare", "--simulated", "--name", "a", "--data_dir", "az://box/data"),
        ("tfds_dwplus.prepare", "--simulated", "--name", "a", "--data_dir", "hub:box/data"),
        (
            "tfds_dwplus.cut",
            "--s2",
            "a.tif",
            "--labels",
            "az://box/fields.gpkg",
            "--field",
            "class",
            "--output",
            "tiles",
        ),
        ("tfds_dwplus.cut", "--s2", "a.tif", "--labels", "a.gpkg", "--field", "class", "--output", "abfs://box/tiles"),
        ("specsar_jax.train", "--workdir", "abfs://box/run"),
        ("specsar_jax.train", "--config.data.data_dir=az://box/data"),
        ("specsar_jax.train", "--config.train.finetune=abfs://box/run"),
        ("specsar_jax.train", "--workdir", "run[1]/a"),
        ("specsar_jax.sweep", "--config", QUICKSTART, "--workdir", "lr=[1e-3]"),
    ],
)
def test_a_command_refuses_before_it_makes_a_folder(arguments, tmp_path):
    assert "expected a path" in (line := refused(command(*arguments, cwd=tmp_path))) or "cannot be kept" in line
    assert not list(tmp_path.iterdir())


def test_functions_refuse_what_commands_do(tmp_path):
    config = DynamicWorldPlusConfig(name="a", tile_size_px=16, simulated_tiles=(("train", 1),))
    for act in (
        lambda: prepare(config, Path("az://box/data")),
        lambda: open_dataset("az://box/data", "a"),
        lambda: loop.train(small_config(tmp_path), Path("az://box/run")),
        lambda: specsar_jax.load("az://box/run"),
    ):
        with pytest.raises(ValueError, match="is an address"):
            act()


@pytest.mark.parametrize("name", ["a[1]", "lr=[1e-3]", "a\\b", os.fsdecode(b"\xff")])
def test_a_folder_whose_checkpoints_could_not_be_read_back_is_refused(name, tmp_path):
    workdir = tmp_path / name / "run"
    with pytest.raises(ValueError, match="cannot be kept in"):
        loop.train(small_config(tmp_path), workdir)
    assert not workdir.parent.exists()


@pytest.mark.parametrize("name", ["a b", "a#b?c", "a*b", "ü", "a[", "{x}", "a:b,c", "a%20b"])
def test_other_signs_are_kept(name, tmp_path):
    assert run_files.checkpoint_folder(tmp_path / name).parent.name == name


def test_a_data_set_is_read_from_a_folder_with_signs_of_patterns(tmp_path):
    folder = tmp_path / "a[1]*?{x}\\"
    prepare(DynamicWorldPlusConfig(name="a", tile_size_px=16, simulated_tiles=(("train", 3),)), folder)
    assert len(read_split(open_dataset(folder, "a"), "train[:2]")) == 2


def test_a_config_of_the_package_is_found_by_name_but_a_file_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.py", "configs/quickstart.py"):
        assert config_file(name) == QUICKSTART
    assert config_file("other/quickstart.py") == Path("other/quickstart.py")
    Path("quickstart.py").touch()
    assert config_file("quickstart.py") == Path("quickstart.py")
