"""Eight fake devices, a folder of small tiles, a data set made from it: what most tests start from."""

import csv
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from other_maps import world  # noqa: F401 (a fixture)

from specsar_jax import config as configs
from specsar_jax.config import Config
from specsar_jax.training import loop
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.tile_files import COLUMNS, write_tile

jax.config.update("jax_num_cpu_devices", 8)
# Tests compile the same small programs in many processes: keep them, for this run of the tests and the next.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
logging.getLogger("absl").setLevel(logging.ERROR)

FAST_COMPILATION = "--xla_backend_optimization_level=0" + (
    " --xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""  # later ones have no such flag
)
"""Most of the time of the tests is XLA's: a small training step takes 27 s to compile as users have it, 7 s with these."""

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared" / "real"


def pytest_configure(config: pytest.Config) -> None:
    """Compiles without optimisation, here and in the commands that tests start; slow tests run what users run."""
    if config.option.markexpr == "not slow":
        os.environ.setdefault("XLA_FLAGS", FAST_COMPILATION)


SMALL = (
    "--config.model.widths=(8,16)",
    "--config.model.blocks=(1,1)",
    "--config.model.heads=(1,1)",
    "--config.model.reductions=(4,2)",
    "--config.model.decoder_width=16",
    "--config.data.crop_px=64",
    "--config.train.log_every=1",
)
"""A network that compiles and runs in seconds; no accuracy is asked of it."""


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of real tiles; skips where it is not there."""
    if not SHARED.is_dir():
        pytest.skip(f"no real tiles at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """Folder with a data set `mine` under `data` and a finished run of six steps under `run`. To be read only."""
    folder = tmp_path_factory.mktemp("small_run")
    tiles = write_folder(folder / "tiles", {"train": 8, "validation": 2, "test": 2})
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=64), folder / "data")
    loop.train(small_config(folder), folder / "run")
    return folder


@pytest.fixture
def corrupt(small_run, tmp_path):
    """Folder with the data set of `small_run`, a few bytes of one of its train records turned round."""
    shutil.copytree(small_run / "data", tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*train*array_record*")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    file.chmod(0o644)
    file.write_bytes(content)
    return tmp_path


def small_config(folder: Path, *more: str, preset: str = "specsar_former") -> Config:
    """The config of `small_run`, with another preset, as small, and some fields changed."""
    flags = [flag.removeprefix("--config.") for flag in small_flags(folder)]
    return configs.override(Config(), [f"model={preset}", *flags, *more])


def small_flags(folder: Path) -> list[str]:
    """The same as arguments of the command."""
    own = (
        f"data.data_dir={folder / 'data'}",
        "data.name=mine",
        "train.steps=6",
        "train.eval_every=2",
        "train.ema_decay=0.9",
    )
    return [*SMALL, *(f"--config.{setting}" for setting in own)]


@pytest.fixture
def tile_folder(tmp_path: Path) -> Path:
    """Four train tiles and two test tiles of 64 x 64 pixels, on disk."""
    return write_folder(tmp_path / "tiles", {"train": 4, "test": 2})


def write_folder(folder: Path, tiles_per_split: dict[str, int], size_px: int = 64) -> Path:
    """Writes simulated tiles in the layout that `prepare` reads."""
    rows = []
    for split, count in tiles_per_split.items():
        for index in range(count):
            tile = simulated_tile(7, split, index, size_px)
            write_tile(folder, tile, bands.S2_BANDS)
            record = tile.record
            rows.append(
                (record.tile_id, split, record.lon, record.lat, record.date, record.annotator, size_px, size_px)
            )
    with (folder / "tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder


def command(module: str, *arguments: object, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """Runs a command as a user does, in a process of its own with one device."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "default"},
        check=False,
    )


def refused(result: subprocess.CompletedProcess) -> str:
    """The error line of a command that refused its input; fails if it did not, or showed a traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def squares(size: int = 64) -> np.ndarray:
    """A label that is seen at a glance: four classes in four squares."""
    label = np.zeros((size, size), np.uint8)
    label[: size // 2, size // 2 :] = 1
    label[size // 2 :, : size // 2] = 4
    label[size // 2 :, size // 2 :] = 6
    return label


@pytest.fixture(scope="session")
def before(tmp_path_factory) -> Path:
    """Folder with a data set `before` under `datasets`, a run of it under `run` and a bundle, of an older version. To be read only."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(Path(__file__).parent / "bundles" / "before_rooms.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder
