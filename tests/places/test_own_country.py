"""Your own country in five commands: acquire, label, prepare, train, map; over real pixels of an archive on loopback."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import FAST_COMPILATION, SMALL, command

pytest.importorskip("shapely", reason="extra 'acquire' or 'region'")

from local_archive import Archive, add_pakistan, files_served, stac_served

from tfds_dwplus.tiles.prepared import open_dataset
from tfds_dwplus.tiles.tile_files import list_tiles

RING = [[73.2927, 30.4526], [73.3191, 30.4526], [73.3191, 30.4754], [73.2927, 30.4754], [73.2927, 30.4526]]
"""2.5 km of fields and a town at the Ravi, in the scenes of `scene_pakistan`."""

DATES = ("--dates", "2020-06-01", "2020-08-31")


@pytest.fixture
def archive(real, tmp_path, monkeypatch) -> list[str]:
    """Options of a STAC API with the real scenes: two dates of Sentinel-2, two passes of Sentinel-1 on another grid."""
    monkeypatch.setenv("XLA_FLAGS", FAST_COMPILATION)
    folders = [tmp_path / name for name in ("files", "control", "api")]
    for folder in folders:
        folder.mkdir()
    with files_served(*folders[:2]) as files:
        scenes = Archive(folders[0], files)
        add_pakistan(scenes, real)
        with stac_served(scenes.items, folders[2]) as url:
            s1 = ["--s1_collection", "s1", "--s1_unit", "db", "--s1_quantity", "sigma0"]
            yield ["--stac_url", url, "--s2_collection", "s2_l2a", *s1]


def done(module: str, *arguments: object, cwd: Path) -> str:
    result = command(module, *arguments, cwd=cwd, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_five_commands(archive, real, tmp_path):
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [RING]}))
    model = real / "dynamic_world_model"
    saved = next((path.parent for path in sorted(model.rglob("saved_model.pb"))), None)
    if saved is None:
        pytest.skip(f"no published network at {model}")
    done("specsar_jax.import_dynamic_world", "--saved_model", saved, "--output", "dw.safetensors", cwd=tmp_path)

    lot = ("--region", "area.geojson", "--tiles", 16, *DATES, "--tile_size_px", 32)
    said = done("tfds_dwplus.acquire", *lot, "--output", "tiles", *archive, cwd=tmp_path)
    assert "16 tiles: 16 done" in said
    done("tfds_dwplus.label", "--network", "dw.safetensors", "--tiles", "tiles", cwd=tmp_path)
    records = list_tiles(tmp_path / "tiles")
    assert {record.date for record in records} == {"2020-06-04", "2020-08-13"}
    assert {record.split for record in records} == {"train", "validation", "test"}
    assert all(record.annotator.startswith("network: dynamic_world") for record in records)
    codes = np.concatenate([_read(tmp_path / "tiles" / "label" / f"{one.tile_id}.tif").ravel() for one in records])
    assert (codes == 5).mean() > 0.2  # fields, as the published labels of this ground say

    where = ("--data_dir", "data", "--name", "mine")
    done("tfds_dwplus.prepare", "--tiles", "tiles", *where, "--tile_size_px", 32, cwd=tmp_path)
    small = [flag.replace("crop_px=64", "crop_px=32") for flag in SMALL]
    data = ("--config.data.data_dir=data", "--config.data.name=mine", "--config.train.steps=10")
    done("specsar_jax.train", "--workdir", "run", *small, *data, "--config.train.eval_every=5", cwd=tmp_path)
    assert open_dataset(tmp_path / "data", "mine").info.splits["train"].num_examples >= 10
    area = ("--geojson", "area.geojson", *DATES, "--cloud_mask", "none", "--workers", 1, "--block_px", 256)
    done("specsar_jax.map_region", "--workdir", "run", *area, "--output", "map", *archive, cwd=tmp_path)
    summary = json.loads((tmp_path / "map" / "summary.json").read_text())
    assert not summary["blocks_missing"] and not summary["blocks_without_imagery"]
    classes = _read(tmp_path / "map" / "mosaic_43N.vrt")
    assert (classes != 255).sum() > 0.95 * summary["region_hectares"] * 100


def _read(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read(1)
