"""The command `specsar`, and what it is without a home folder."""

import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import jax
import pytest
from conftest import REPOSITORY, refused

from specsar_jax.commands import COMMANDS
from specsar_jax.config.files import FOLDER
from specsar_jax.devices.compilation import keep_compiled_programs


def specsar(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "specsar_jax.commands", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=False,
    )


def test_every_command_is_listed():
    for package in ("specsar_jax", "tfds_dwplus"):
        files = [*(REPOSITORY / package).glob("*.py"), *(REPOSITORY / package).glob("*/__main__.py")]
        commands = [file for file in files if file.read_text().startswith(('"""Command: ', 'r"""Command: '))]
        found = {file.parent.name if file.stem == "__main__" else file.stem for file in commands}
        assert found == {name for name, (of, _) in COMMANDS.items() if of == package}


def test_the_list_comes_without_jax(tmp_path):
    code = "import sys; from specsar_jax.commands import main; sys.argv = ['specsar']\ntry: main()\n"
    code += "except SystemExit: print(sorted({'jax', 'numpy', 'tensorflow_datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert all(f"\n  {name}" in done.stdout for name in COMMANDS)
    assert done.stdout.endswith("[]\n")


def test_a_command_is_run_under_its_name(tmp_path):
    assert specsar("prepare", "--help", cwd=tmp_path).stdout.startswith("usage: specsar prepare [-h]")
    assert "expected a path" in refused(specsar("describe", "--data_dir", "az://a", "--name", "b", cwd=tmp_path))
    assert refused(specsar("predcit", cwd=tmp_path)).endswith("did you mean predict? See specsar --help")


def test_the_package_holds_the_configs_of_the_repository():
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert "configs/*.py" in setup["options.package_data"]["specsar_jax"]
    assert FOLDER.resolve() == REPOSITORY / "configs"


@pytest.fixture
def no_cache_named(monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_enable_compilation_cache", before[1])


def test_without_a_home_compiled_programs_are_not_kept(no_cache_named, monkeypatch, capsys):
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    keep_compiled_programs()
    assert capsys.readouterr().err.startswith("note: compiled programs are not kept")
    assert not jax.config.jax_enable_compilation_cache


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"])
def test_nor_where_the_folder_cannot_be_made(variable, no_cache_named, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "cache"))
    keep_compiled_programs()
    assert capsys.readouterr().err.count("\n") == 1
    assert not jax.config.jax_enable_compilation_cache


@pytest.mark.parametrize("of_another", [False, True])
def test_nor_where_others_could_write_them(of_another, no_cache_named, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "cache"
    folder.mkdir()
    if not of_another:
        folder.chmod(0o1777)
    elif os.geteuid():
        pytest.skip("only root gives folders away")
    else:
        os.chown(folder, 12345, 12345)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    keep_compiled_programs()
    assert "belongs to another user, or anybody can write it" in capsys.readouterr().err
    assert not jax.config.jax_enable_compilation_cache and not list(folder.iterdir())


def test_else_they_are_kept_in_the_cache_of_the_user(no_cache_named, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "specsar_jax" / "xla")


WITHOUT_EXTRAS = """
import importlib.abc, runpy, sys
extras = set(sys.argv[1].split(","))
class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in extras:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refusing())
for command in sys.argv[2:]:
    sys.argv = ["specsar", command, "--help"]
    try:
        runpy.run_module("specsar_jax.commands", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, command
"""
"""Asks commands for their --help where packages of extras are missing."""


OF_EXTRAS = (
    "apache_beam", "boto3", "cryptography", "dask", "distributed", "ee", "exactextract", "flatbuffers", "huggingface_hub", "mlflow", "onnx",
    "openpyxl", "planetary_computer", "pyarrow", "pyogrio", "pystac", "pystac_client", "rio_tiler", "rioxarray", "shapely", "tensorflow",
    "torch", "tornado", "wandb", "xarray", "xstatic",
)  # fmt: skip


def test_each_command_tells_its_arguments_without_any_extra(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, ",".join(OF_EXTRAS), *COMMANDS],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage: specsar ") == len(COMMANDS)
