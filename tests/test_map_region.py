"""A region over two UTM zones out of an archive on loopback: each place once, areas that add up, a rerun that does nothing."""

import json

import pytest
import rasterio
from conftest import command, refused
from local_archive import Archive, files_served, stac_served
from region_archive import add_place

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")

BOX = (17.988, 42.391, 18.012, 42.409)
"""About 2 by 2 km over the meridian between zones 33 and 34."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Address of a STAC API."""
    folders = [tmp_path_factory.mktemp(name) for name in ("files", "control", "api")]
    with files_served(*folders[:2]) as files:
        made = Archive(folders[0], files)
        add_place(made, "EPSG:32633", 18.0, 42.4)
        with stac_served(made.items, folders[2]) as url:
            yield url


def mapped(small_run, cwd, url: str, *more: object):
    """Runs the command over the box; later flags win."""
    return command(
        "specsar_jax.map_region",
        *("--workdir", small_run / "run", "--stac_url", url, "--output", cwd / "out", "--workers", 1),
        *("--s2_collection", "region-s2", "--s1_collection", "region-s1", "--s1_unit", "power"),
        *("--s1_quantity", "sigma0", "--dates", "2024-05-01", "2024-05-31", "--block_px", 128, "--bbox", *BOX),
        *more,
        cwd=cwd,
    )


def test_a_region_over_two_zones(small_run, archive, tmp_path):
    result = mapped(small_run, tmp_path, archive)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert sorted(path.name for path in out.glob("mosaic_*.vrt")) == ["mosaic_33N.vrt", "mosaic_34N.vrt"]
    maps = sorted((out / "blocks").glob("*.tif"))
    assert len(maps) >= 6 and all(path.with_suffix(".json").exists() for path in maps)
    for path in maps:
        with rasterio.open(path) as raster:
            assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and raster.nodata == 255
            assert {"weights_sha256", "software"} <= raster.tags().keys()
    # On WGS 84 at 42.4 degrees north a degree is 82.36 km along the parallel and 111.06 km along the meridian.
    expected = (BOX[2] - BOX[0]) * 82.36 * (BOX[3] - BOX[1]) * 111.06 * 100
    assert summary["region_hectares"] == pytest.approx(expected, rel=2e-3)
    known = sum(summary["hectares"].values()) + summary["no_data_hectares"]
    assert known == pytest.approx(summary["region_hectares"], rel=1e-3)
    assert summary["blocks"] == len(maps) and not summary["blocks_missing"]
    before = {path: path.stat().st_mtime_ns for path in maps}
    again = mapped(small_run, tmp_path, archive)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in maps} == before
    assert "dates" in refused(mapped(small_run, tmp_path, archive, "--dates", "2024-05-01", "2024-05-20"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dates", "2024-05-31", "2024-05-01"), "2024-05"),
        (("--bbox", 10.0, 42.0, 10.01, 42.01), "no"),
        (("--scheduler", "nowhere.json"), "no scheduler file nowhere.json"),
        (("--bbox", 10.0, 42.0, 10.01, 41.0), "41"),
    ],
)
def test_what_is_refused(small_run, archive, tmp_path, flags, message):
    assert message in refused(mapped(small_run, tmp_path, archive, *flags))
