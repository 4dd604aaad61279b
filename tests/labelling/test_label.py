"""`python -m tfds_dwplus.label`: the labels are those of a map; stopped and started again; what people made stays."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import command, refused, write_folder
from small_scenes import network

from specsar_jax.config import Predict
from specsar_jax.maps import scene_map
from specsar_jax.maps.map_files import Outputs
from specsar_jax.trained.bundle import write_bundle
from tfds_dwplus import bands, label
from tfds_dwplus.files.outputs import locked
from tfds_dwplus.tiles.labelling import folder as folders
from tfds_dwplus.tiles.tile_files import list_tiles, read_tile


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """An untrained network of both sensors."""
    path = tmp_path_factory.mktemp("bundle") / "network.safetensors"
    write_bundle(network(), path)
    return path


@pytest.fixture
def tiles(tmp_path) -> Path:
    """Three tiles without labels."""
    folder = write_folder(tmp_path / "tiles", {"train": 2, "test": 1})
    shutil.rmtree(folder / "label")
    _set(folder, annotator="")
    return folder


def _set(folder: Path, rows: slice = slice(None), **columns: str) -> None:
    with (folder / "tiles.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row in table[rows]:
        row.update(columns)
    with (folder / "tiles.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*table[0]])
        writer.writeheader()
        writer.writerows(table)


def run(bundle: Path, tiles: Path, *more: str) -> None:
    label.main(["--network", str(bundle), "--tiles", str(tiles), *more])


def codes(tiles: Path, tile_id: str, kind: str = "label") -> np.ndarray:
    with rasterio.open(tiles / kind / f"{tile_id}.tif") as raster:
        return raster.read(1) if kind == "label" else np.moveaxis(raster.read(), 0, -1)


def bytes_of(tiles: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tiles)): path.read_bytes() for path in tiles.rglob("*") if path.is_file()}


def test_the_labels_are_those_of_a_map(bundle, tiles, tmp_path, capsys):
    run(bundle, tiles, "--confidence", "0", "--keep_clouds", "--keep_dark_water", "--probabilities")
    trained = label.load_trained(bundle)
    assert {path.name for path in tiles.iterdir()} == {"s1", "s2", "label", "probability", "tiles.csv"}
    for record in list_tiles(tiles):
        s2, s1 = ([str(tiles / sensor / f"{record.tile_id}.tif")] for sensor in ("s2", "s1"))
        scene_map.map_scene(trained, s2, s1, Outputs(tmp_path / "map.tif"), Predict())
        with rasterio.open(tmp_path / "map.tif") as raster:
            expected = raster.read(1)
            profile = raster.crs, raster.transform
        found = codes(tiles, record.tile_id)
        np.testing.assert_array_equal(found, np.where(expected == bands.IGNORE, 0, expected + 1))
        with rasterio.open(tiles / "label" / f"{record.tile_id}.tif") as raster:
            assert (raster.crs, raster.transform) == profile
        shares = codes(tiles, record.tile_id, "probability")
        assert set(np.unique(shares.sum(axis=-1, dtype=int))) <= {0, 255}
        assert (shares.any(axis=-1) == (found > 0)).all()
        tile = read_tile(tiles, record, bands.S2_BANDS, probabilities=True)
        assert tile.record.annotator == f"network: {trained.name}"
        labelled = tile.label != bands.IGNORE
        own = np.take_along_axis(shares, np.where(labelled, tile.label, 0)[..., None].astype(int), axis=-1)[..., 0]
        assert (own == shares.max(axis=-1))[labelled].all()
        np.testing.assert_array_equal(tile.probability, shares)
    told = capsys.readouterr().out
    assert f"network: specsar_former {trained.sha256[:12]} (trained on simulated)" in told
    assert "12,288 pixels: " in told and "0.0 % unsure (below 0), 0.0 % cloud" in told


def test_a_run_that_was_stopped_ends_the_same(bundle, tiles, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiles, tmp_path / "whole")
    run(bundle, tmp_path / "whole", "--probabilities", "--confidence", "0.2")
    written = folders.write_labels
    with monkeypatch.context() as patched:
        calls = []

        def stopping(*arguments):
            calls.append(arguments)
            if len(calls) > 1:
                raise KeyboardInterrupt
            written(*arguments)

        patched.setattr(label, "write_labels", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(bundle, tiles, "--probabilities", "--confidence", "0.2")
    assert len(list((tiles / "label").iterdir())) == 1
    assert all(record.annotator.startswith("network: ") for record in list_tiles(tiles))  # no label without its author
    capsys.readouterr()
    run(bundle, tiles, "--probabilities", "--confidence", "0.2")
    assert "2 tiles labelled by network: " in capsys.readouterr().out
    assert bytes_of(tiles) == bytes_of(tmp_path / "whole")
    before = bytes_of(tiles)
    run(bundle, tiles, "--probabilities", "--confidence", "0.2")
    assert "0 tiles labelled" in capsys.readouterr().out and bytes_of(tiles) == before


def test_other_settings_are_refused_unless_they_are_to_overwrite(bundle, tiles):
    run(bundle, tiles, "--probabilities")
    before = bytes_of(tiles)
    with pytest.raises(
        ValueError, match=r"3 of 3 tiles are labelled already, .*confidence 0\.35 and now 0\.2.*--overwrite"
    ):
        run(bundle, tiles, "--confidence", "0.2")
    assert bytes_of(tiles) == before
    run(bundle, tiles, "--confidence", "0.2", "--overwrite")
    assert not list((tiles / "probability").iterdir())  # of the labels of before


def test_labels_of_people_stay(bundle, tiles, capsys):
    first, second, _ = list_tiles(tiles)
    run(bundle, tiles)
    path = tiles / "label" / f"{first.tile_id}.tif"
    with rasterio.open(path, "r+") as raster:  # corrected in a GIS, which keeps the tags
        raster.write(np.full((64, 64), 3, np.uint8), 1)
    shutil.copy(path, kept := tiles.with_name("kept.tif"))
    for more in (("--overwrite", "--confidence", "0.2"),):
        with pytest.raises(
            ValueError, match=r"1 of 3 tiles have labels that .* were changed since, .*--only_unlabelled"
        ):
            run(bundle, tiles, *more)
    _set(tiles, slice(0, 1), annotator="expert")
    with pytest.raises(ValueError, match="never overwritten"):
        run(bundle, tiles)
    (tiles / "label" / f"{second.tile_id}.tif").unlink()
    capsys.readouterr()
    run(bundle, tiles, "--only_unlabelled")
    assert (
        "1 tiles labelled" in (told := capsys.readouterr().out) and "1 with labels of people left as they are" in told
    )
    assert path.read_bytes() == kept.read_bytes()
    assert [record.annotator[:8] for record in list_tiles(tiles)] == ["expert", "network:", "network:"]
    assert read_tile(tiles, list_tiles(tiles)[0], ()).record.annotator == "expert"


def test_other_columns_and_a_missing_one(bundle, tiles):
    lines = [f"{record.tile_id},{record.split},somewhere" for record in list_tiles(tiles)]
    (tiles / "tiles.csv").write_text("\n".join(["tile_id,split,source", *lines]) + "\n")
    run(bundle, tiles)
    with (tiles / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["tile_id", "split", "source", "annotator"]] * 3
    assert {row["source"] for row in rows} == {"somewhere"} and rows[0]["annotator"].startswith("network: ")


def test_pixels_without_data_and_clouds_have_no_label(bundle, tiles):
    first, second, _ = list_tiles(tiles)
    for record in (first, second):
        with rasterio.open(tiles / "s2" / f"{record.tile_id}.tif", "r+") as raster:
            pixels = raster.read()
            pixels[:, :, :8] = 0
            pixels[:, 30:45, 30:45] = 5000  # a bright cloud
            pixels[7:, 30:45, 30:45] = 3500
            pixels[:, 60:, 60:] = 2  # dark, and measured
            pixels[1, 60:, 60:] = 9  # and as dark as only water is
            raster.write(pixels)
            profile = raster.profile
    (tiles / "cloud").mkdir()
    with rasterio.open(
        tiles / "cloud" / f"{second.tile_id}.tif", "w", **profile | {"count": 1, "dtype": "uint8"}
    ) as mask:
        mask.write(np.pad(np.ones((1, 1), np.uint8), ((50, 13), (50, 13))), 1)  # its own mask is believed
    run(bundle, tiles, "--confidence", "0", "--probabilities")
    found, masked = codes(tiles, first.tile_id), codes(tiles, second.tile_id)
    assert not found[:, :8].any() and not found[26:49, 30:45].any() and (found[60:, 60:] == 1).all()
    assert not masked[50, 50] and not masked[46, 50] and masked[35, 35] and not masked[:, :8].any()
    assert not codes(tiles, first.tile_id, "probability")[26:49, 30:45].any()
    assert folders.read_facts(tiles / "label" / f"{second.tile_id}.tif").counts.cloud > 0
    stored = read_tile(tiles, first, (), probabilities=True).probability[60:, 60:]
    assert not stored[stored.argmax(axis=-1) != 0].any()  # what the network saw is no target there
    run(bundle, tiles, "--confidence", "1", "--keep_clouds", "--overwrite")
    assert (codes(tiles, first.tile_id)[60:, 60:] == 1).all() and not codes(tiles, first.tile_id)[30:45, 30:45].any()
    run(bundle, tiles, "--confidence", "0", "--keep_clouds", "--overwrite")
    assert codes(tiles, first.tile_id)[30:45, 30:45].all()


def test_refused(bundle, tiles, tmp_path):
    before = bytes_of(tiles)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    (tmp_path / "other.safetensors").write_bytes(b"\0" * 50)
    (tmp_path / "none").mkdir()
    for network_, folder, more, expected in (
        (bundle, tiles, ("--confidence", "1.5"), r"--confidence is 1.5, expected a probability from 0 to 1"),
        (bundle, tiles, ("--confidence", "nan"), r"--confidence is nan"),
        (tmp_path / "saved", tiles, (), r"SavedModel.*\.import_dynamic_world"),
        (tmp_path / "other.safetensors", tiles, (), "not a whole safetensors file"),
        (tmp_path / "nowhere", tiles, (), "no workdir or bundle"),
        (bundle, tmp_path / "none", (), "no file .*tiles.csv"),
        (bundle, tmp_path / "nowhere", (), "no folder"),
    ):
        with pytest.raises(ValueError, match=expected) as error:
            run(network_, folder, *more)
        assert "\n" not in str(error.value)
    assert bytes_of(tiles) == before
    with pytest.raises(SystemExit):
        run(bundle, tiles, "--confidence", "much")


def test_tiles_that_lack_what_the_network_reads(bundle, tmp_path):
    """Four bands for a network of nine, no Sentinel-1 for one of both, and a network that reads what is there."""
    folder = write_folder(tmp_path / "tiles", {"train": 1}, size_px=32)
    (record,) = list_tiles(folder)
    shutil.rmtree(folder / "label")
    with rasterio.open(path := folder / "s2" / f"{record.tile_id}.tif") as raster:
        pixels, profile = raster.read(), raster.profile
    four = ("B2", "B3", "B4", "B8")
    with rasterio.open(path, "w", **profile | {"count": 4}) as raster:
        raster.write(pixels[[bands.S2_BANDS.index(name) for name in four]])
        raster.descriptions = four
    with pytest.raises(ValueError, match=r"has B2, B3, B4, B8 only; take a network of these bands, or add B5, B6"):
        run(bundle, folder)
    shutil.rmtree(folder / "s1")
    with pytest.raises(ValueError, match=r"the network reads s2 and s1, but .* has no s1/"):
        run(bundle, folder)
    write_bundle(network("spectral_only", ("B8", "B2")), tmp_path / "two.safetensors")
    run(tmp_path / "two.safetensors", folder, "--confidence", "0")
    assert codes(folder, record.tile_id).any()


def test_a_second_process_is_refused(bundle, tiles):
    for name in (".label.lock", "manifest.jsonl"):
        (tiles / name).touch()
        with locked(tiles / name, tiles), pytest.raises(ValueError, match="another process is at work on"):
            run(bundle, tiles)
    assert not (tiles / "label").exists()


def test_the_command(bundle, tiles, tmp_path):
    arguments = ("--network", bundle, "--tiles", tiles)
    assert "--confidence is 2" in refused(command("tfds_dwplus.label", *arguments, "--confidence", 2, cwd=tmp_path))
    done = command("tfds_dwplus.label", *arguments, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("3 tiles labelled by network: "), done.stderr
