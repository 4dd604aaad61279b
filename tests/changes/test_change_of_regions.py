"""Change between two regions' folders: zone by zone, out of an archive on loopback at two dates, and of folders that differ in extent."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from compared_maps import rows_of, run
from conftest import REPOSITORY, command, refused
from drawn_zones import shapely, write_map, write_zones

pytest.importorskip("distributed", reason="extra 'region'")

from region_archive import box_hectares, mapped, served

from specsar_jax import areas
from specsar_jax.regions import mosaics
from tfds_dwplus import bands
from tfds_dwplus.places import blocks

BOX = (17.996, 42.397, 18.004, 42.403)
"""About 700 m a side, over the meridian between zones 33 and 34."""


def hectares_of(path: Path) -> dict[tuple[str, str], float]:
    return {(row["before"], row["after"]): float(row["hectares"]) for row in rows_of(path)}


def write_region(folder: Path, area: shapely.Geometry, seed: int) -> tuple[Path, dict[tuple[str, int, int], int]]:
    """A region's folder as `map_region` leaves it, and the class of each pixel by zone, row and column."""
    (folder / "blocks").mkdir(parents=True)
    done, ids_of = list(blocks.blocks_of(area, 64)), {}
    for block in done:
        inside = blocks.inside(block, area)
        rows, columns = np.indices(inside.shape)
        rows, columns = rows + block.rows.start, columns + block.columns.start
        ids = np.where(inside, (rows // 9 + seed * columns // 16) % 9, bands.IGNORE).astype(np.uint8)
        write_map(folder / "blocks" / f"{block.name}.tif", ids, block.crs, block.grid.transform)
        at = zip(rows[inside].tolist(), columns[inside].tolist(), ids[inside].tolist(), strict=True)
        ids_of |= {(block.zone, row, column): id_ for row, column, id_ in at}
    mosaics.write_mosaics(folder, done, bands.DYNAMIC_WORLD)
    return folder, ids_of


def test_two_dates_of_a_region_over_two_utm_zones(tmp_path):
    """Both seasons come out of the archive; what the summaries of the maps say holds for the margins of the matrix."""
    bundle = REPOSITORY / "tests" / "bundles" / "bundle_1.safetensors"
    (tmp_path / "archive").mkdir()
    with served(tmp_path / "archive", ("EPSG:32633", 18.0, 42.4)) as (url, _):
        for name, dates in (("early", ("2024-05-01", "2024-05-10")), ("late", ("2024-05-11", "2024-05-31"))):
            result = mapped(bundle, url, tmp_path / name, "--bbox", *BOX, "--dates", *dates)
            assert result.returncode == 0, result.stderr
    zones = write_zones(
        tmp_path / "zones.gpkg",
        [shapely.box(17.997, 42.398, 18.003, 42.402), shapely.box(17.997, 42.398, 17.9995, 42.402)],
        crs="EPSG:4326",
    )
    given = ("early", "late", "--zones", zones, "--output", "change")
    result = command("specsar_jax.change", *given, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "change").iterdir()) == sorted(
        [f"change_{zone}.{kind}" for zone in ("33N", "34N") for kind in ("tif", "tif.aux.xml", "qml")]
        + ["change.csv", "change.json", "change.zones.csv"]
    )
    found, codes = hectares_of(tmp_path / "change" / "change.csv"), {}
    for zone in ("33N", "34N"):
        maps = []
        for name in ("early", "late"):
            with rasterio.open(tmp_path / name / f"mosaic_{zone}.vrt", driver="VRT") as raster:
                maps.append(raster.read(1))
        with rasterio.open(tmp_path / "change" / f"change_{zone}.tif", driver="GTiff") as raster:
            codes[zone] = raster.read(1)
        assert maps[0].shape == maps[1].shape  # the same blocks
        both = (maps[0] != 255) & (maps[1] != 255)
        np.testing.assert_array_equal(codes[zone], np.where(both, maps[0].astype(int) * 9 + maps[1], 255))
    tree = json.loads((tmp_path / "change" / "change.json").read_text())
    for name, when in (("early", "before"), ("late", "after")):
        mapped_hectares = sum(json.loads((tmp_path / name / "summary.json").read_text())["hectares"].values())
        assert sum(found.values()) + tree[f"{when}_alone_hectares"] == pytest.approx(mapped_hectares, rel=1e-3)
    pixels = sum((of != 255).sum() for of in codes.values())
    assert sum(found.values()) == pytest.approx(0.01 * pixels, rel=2e-3)
    across, inside = tree["zones"]  # the border of the UTM zones goes through the first one
    assert inside["compared_hectares"] == pytest.approx(box_hectares(17.997, 42.398, 17.9995, 42.402), rel=1e-3)
    assert across["compared_hectares"] == pytest.approx(box_hectares(17.997, 42.398, 18.003, 42.402), rel=5e-3)
    assert not across["outside_hectares"] and not inside["nodata_hectares"]
    areas.main([str(tmp_path / "early"), "--zones", str(zones), "--output", str(tmp_path / "areas.csv")])
    measured = [float(row["hectares"]) for row in rows_of(tmp_path / "areas.csv")]
    assert measured[1] == pytest.approx(inside["compared_hectares"], rel=1e-6)
    assert measured[0] == pytest.approx(box_hectares(17.997, 42.398, 18.003, 42.402), rel=5e-3)
    summary = json.loads((tmp_path / "early" / "summary.json").read_text())["hectares"]
    whole = write_zones(tmp_path / "whole.gpkg", [shapely.box(17.99, 42.39, 18.01, 42.41)], crs="EPSG:4326")
    areas.main([str(tmp_path / "early"), "--zones", str(whole), "--output", str(tmp_path / "whole.csv")])
    (row,) = rows_of(tmp_path / "whole.csv")
    assert {name: float(row[f"{name}_hectares"]) for name in summary} == pytest.approx(summary, rel=2e-3, abs=0.02)


def test_folders_of_other_extent_are_compared_pixel_by_pixel(tmp_path, capsys):
    """The later region is smaller in one zone and lies in it alone: nothing is resampled, and the other zone is told."""
    one, first = write_region(tmp_path / "one", blocks.box(17.98, 45.0, 18.02, 45.02), 1)
    two, second = write_region(tmp_path / "two", blocks.box(17.985, 45.005, 17.999, 45.03), 2)
    run(one, two, "--output", tmp_path / "change.tif")  # one zone is left, and so a raster will do
    with rasterio.open(tmp_path / "change.tif", driver="GTiff") as raster:
        codes, transform = raster.read(1), raster.transform
    top, left = round(-transform.f / 10), round(transform.c / 10)
    expected = np.full(codes.shape, 255)
    for zone, row, column in first.keys() & second.keys():
        assert zone == "33N"
        at = (zone, row, column)
        expected[row - top, column - left] = first[at] * 9 + second[at]
    np.testing.assert_array_equal(codes, expected)
    told = capsys.readouterr().err
    assert "mosaic_34N.vrt has no ground in common with" in told and "another grid" not in told
    assert "ha have a class in" in told


def test_a_regions_folder_with_a_file_and_what_is_refused(tmp_path, capsys):
    one, _ = write_region(tmp_path / "one", blocks.box(17.98, 45.0, 18.02, 45.02), 1)
    transform = rasterio.Affine(1e-4, 0, 17.975, 0, -1e-4, 45.025)
    ids = np.zeros((300, 500), np.uint8)
    file = write_map(tmp_path / "file.tif", ids, "EPSG:4326", transform)
    run(one, file, "--output", tmp_path / "by_zone")
    run(file, one, "--output", tmp_path / "file_first.tif")
    areas = hectares_of(tmp_path / "by_zone" / "change.csv"), hectares_of(tmp_path / "file_first.csv")
    for name in bands.CLASSES:
        assert areas[0][name, "water"] == pytest.approx(areas[1]["water", name], rel=0.02)
    assert capsys.readouterr().err.count("is on another grid than") == 4
    alone = 0  # within the rasters of the region, but each of them in its own zone
    for zone, west in (("33N", True), ("34N", False)):
        with rasterio.open(one / f"mosaic_{zone}.vrt", driver="VRT") as raster:
            rows, columns = np.nonzero(raster.read(1) == bands.IGNORE)
            lon, lat = map(np.array, rasterio.warp.transform(raster.crs, "EPSG:4326", *raster.xy(rows, columns)))
        in_file = (abs(lon - 18) < 0.025) & (abs(lat - 45.01) < 0.015)
        alone += np.count_nonzero(in_file & ((lon < 18) == west))
    tree = json.loads((tmp_path / "by_zone" / "change.json").read_text())
    assert tree["after_alone_hectares"] == pytest.approx(0.01 * alone, rel=3e-3)
    mosaic, block = one / "mosaic_33N.vrt", sorted((one / "blocks").glob("33N*.tif"))[0]
    for given, message in (
        (
            (one, one, "--output", tmp_path / "c.tif"),
            "has 2 rasters, of UTM zones of their own, .* is one; give a folder",
        ),
        ((one, one, "--output", tmp_path / "by_zone"), "is there already"),
        ((mosaic, file, "--output", block), f"{block.name} is read, and --output .* would write it"),
        (
            (
                one,
                one,
                "--output",
                tmp_path / "c",
                "--confidence",
                0.5,
                "--before_probabilities",
                file,
                "--after_probabilities",
                file,
            ),
            "is one raster, .* has 2; give maps that are one raster each, or no --confidence",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            run(*given)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("c*"))
    assert "no ground in common" in refused(
        command(
            *(
                "specsar_jax.change",
                one,
                write_map(tmp_path / "far.tif", ids, "EPSG:4326", transform @ rasterio.Affine.translation(9000, 0)),
            ),
            *("--output", "c"),
            cwd=tmp_path,
        )
    )
