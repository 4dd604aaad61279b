"""A series out of an archive on loopback, by the command: what there is in each month, the maps, the maps of the year, what is refused."""

import json

import numpy as np
import pytest
import rasterio
from conftest import refused

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")

from local_archive import Archive, add_pakistan, files_served, stac_served
from region_archive import arguments, mapped, served

from specsar_jax import map_region
from specsar_jax.regions.series import filters, transitions
from tfds_dwplus import bands

BOX = (17.984, 42.393, 17.996, 42.403)
"""About 1 by 1 km in zone 33."""

SPRING = ("--bbox", *BOX, "--dates", "2024-03-02", "2024-06-20", "--every", "month")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Address of a STAC API that has nothing of April, and no Sentinel-1 of June."""
    days, passes = ("2024-03-05", "2024-05-05", "2024-06-10"), ("2024-03-03", "2024-05-03")
    folder = tmp_path_factory.mktemp("archive")
    with served(folder, ("EPSG:32633", 18.0, 42.4), days=days, passes=passes) as (url, _):
        yield url


def test_a_series_of_months_and_its_year(small_run, url, tmp_path):
    out = tmp_path / "out"
    result = mapped(small_run / "run", url, out, *SPRING, "--filter", "hmm")
    assert result.returncode == 0, result.stderr
    assert (
        "2024-03: Sentinel-1 of region-s1, descending: 1 scene on 2024-03-03, over 100 % of the region" in result.stdout
    )
    assert "2024-04 counts as not observed: region-s2" in result.stdout
    assert "2024-06 counts as not observed: region-s1" in result.stdout
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["2024-03", "2024-05", "hmm_2024"]
    for folder in ("2024-03", "2024-05", "hmm_2024"):
        summary = json.loads((out / folder / "summary.json").read_text())
        known = sum(summary["hectares"].values()) + summary["no_data_hectares"]
        assert known == pytest.approx(summary["region_hectares"], rel=1e-3) and not summary["blocks_missing"]
    names = [path.stem for path in (out / "2024-03" / "blocks").glob("*.json")]
    matrix = transitions.evenly(9, transitions.STAY, "month")
    for name in names:  # the year is what its months give, those that were not observed between them
        share = np.full((4, 9, 128, 128), bands.IGNORE, np.uint8)
        for place, month in ((0, "2024-03"), (2, "2024-05")):
            with rasterio.open(out / month / "probabilities" / f"{name}.tif") as raster:
                assert raster.descriptions == bands.CLASSES and raster.scales == (0.004,) * 9
                share[place] = raster.read()
        share = share.reshape(4, 9, -1)
        state = filters.smoothed(filters.emissions(share, bands.CLASSES.index("snow_and_ice")), matrix)
        with rasterio.open(out / "hmm_2024" / "blocks" / f"{name}.tif") as raster:
            np.testing.assert_array_equal(raster.read(1).ravel(), filters.yearly(state, filters.observed(share)))

    # Once more, by the other filter: what is there is enough, without a server of pixels.
    again = mapped(small_run / "run", url, out, *SPRING, "--filter", "mode")
    assert again.returncode == 0, again.stderr
    assert "2024-05: complete" in again.stdout and "mode_2024:" in again.stdout
    links = json.loads((out / "collection.json").read_text())["links"]  # the other filter's map stays one of the series
    children = [link["href"] for link in links if link["rel"] == "child"]
    assert children == [f"./{name}/collection.json" for name in ("2024-03", "2024-05", "hmm_2024", "mode_2024")]
    both = [rasterio.open(out / folder / "mosaic_33N.vrt").read(1) for folder in ("mode_2024", "2024-05")]
    np.testing.assert_array_equal(*both)  # of two months the later one
    one = mapped(small_run / "run", url, out, "--bbox", *BOX)
    assert "out holds a series of maps; give its --every" in refused(one)
    two = mapped(small_run / "run", url, out / "2024-05", *SPRING)
    assert "2024-05 holds the map of a region, not a series; leave --every out" in refused(two)


def test_patches_of_the_map_of_each_year(small_run, url, tmp_path):
    """Of two years, in the first of which nothing was observed. A place that no file can take is told before anything is mapped."""
    pyogrio = pytest.importorskip("pyogrio", reason="extra 'polygons'")
    asked = ("--bbox", *BOX, "--dates", "2023-10-01", "2024-03-31", "--every", "quarter", "--filter", "mode")
    asked = (*asked, "--minimum_area_ha", 0.3, "--generalised", "--polygons")
    nowhere = mapped(small_run / "run", url, tmp_path / "out", *asked, "none/map.gpkg")
    assert "no folder" in refused(nowhere) and "none for --polygons map_2023.gpkg" in refused(nowhere)
    assert not list((tmp_path / "out").glob("*/blocks/*"))
    result = mapped(small_run / "run", url, tmp_path / "out", *asked, "map.gpkg")
    assert result.returncode == 0, result.stderr
    for year in ("2023", "2024"):
        with rasterio.open(tmp_path / "out" / f"mode_{year}" / "generalised" / "33N.tif") as raster:
            ids = raster.read(1)
        _, _, _, (kinds, _, _, pixels, _) = pyogrio.raw.read(tmp_path / f"map_{year}.gpkg", layer="land_cover_33N")
        assert np.bincount(kinds, pixels, 9).tolist() == np.bincount(ids[ids != bands.IGNORE], minlength=9).tolist()
        assert (len(kinds) > 0) == (year == "2024") and f"map_{year}.gpkg" in result.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--every", "month", "--polygons", "map.gpkg"), "are those of its map of each year; add --filter hmm or"),
        (("--every", "month", "--generalised", "--minimum_area_ha", 1), "are those of its map of each year; add"),
        (("--filter", "hmm"), "--filter is given without --every"),
        (("--every", "month", "--stay", 0.9), "--stay is given without --filter hmm"),
        (
            ("--every", "month", "--filter", "mode", "--transitions", "m.csv"),
            "--transitions is given without --filter hmm",
        ),
        (("--every", "month", "--filter", "hmm", "--stay", 0.9, "--transitions", "m.csv"), "are both given"),
        (("--every", "month", "--s1_dates", "2024-05-01", "2024-05-09"), "--s1_dates is given with --every"),
        (("--every", "month", "--filter", "hmm", "--transitions", "m.csv"), "m.csv: its columns name 'sea'"),
        (("--every", "month", "--filter", "hmm", "--transitions", "none.csv"), "No such file or directory"),
        (("--every", "month", "--dates", "1990-01-01", "2024-01-01"), "more than 240 periods of a month"),
    ],
)
def test_what_is_refused(small_run, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.csv").write_text("from,sea\nsea,1\n")
    asked = arguments(small_run / "run", "http://127.0.0.1:9", tmp_path / "out", "--bbox", *BOX, *flags)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        map_region.main(list(map(str, asked)))
    assert not (tmp_path / "out").exists()


def test_two_quarters_of_the_real_scene(small_run, real, tmp_path):
    """June and August of 2020 in Punjab, each with a pass of another direction. The year has a class where a quarter has one."""
    folders = [tmp_path / name for name in ("files", "control", "api")]
    for folder in folders:
        folder.mkdir()
    where = ("--bbox", 73.300, 30.460, 73.306, 30.466, "--dates", "2020-04-01", "2020-12-31", "--every", "quarter")
    level = ("--s2_collection", "s2_l1c", "--s2_level", "L1C", "--cloud_mask", "none")
    passes = ("--s1_collection", "s1", "--s1_unit", "db", "--s1_orbit", "both")
    with files_served(*folders[:2]) as files:
        scenes = Archive(folders[0], files)
        add_pakistan(scenes, real)
        with stac_served(scenes.items, folders[2]) as url:
            result = mapped(small_run / "run", url, tmp_path / "out", *where, *level, *passes, "--filter", "hmm")
    assert result.returncode == 0, result.stderr
    assert "2020-Q4 counts as not observed: s2_l1c" in result.stdout
    maps = [
        rasterio.open(tmp_path / "out" / name / "mosaic_43N.vrt").read(1) for name in ("2020-Q2", "2020-Q3", "hmm_2020")
    ]
    known = (np.array(maps) != bands.IGNORE).tolist()
    assert np.any(known[2]) and known[2] == np.logical_or(*known[:2]).tolist()
