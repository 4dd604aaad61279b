"""The command of areas: tables, GeoParquet and the page, a region's folder, corrections, and what is refused in a line."""

import csv
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from browsers import started, violations
from conftest import REPOSITORY, command, refused
from drawn_zones import UTM, box, pyogrio, shapely, write_map, write_zones
from pyproj import Geod
from rasterio.crs import CRS

from specsar_jax import areas
from specsar_jax.regions import mosaics
from tfds_dwplus import bands
from tfds_dwplus.files.outputs import output_claimed
from tfds_dwplus.places import blocks
from tfds_dwplus.vectors.vector_files import read_vectors

OLOFSSON = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
"""Table 8 of Olofsson et al. 2014: rows = map."""
FOREST = bands.Classes(("deforestation", "gain", "forest", "other"), ("c4281b", "88b053", "397d49", "a59b8f"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A map in four quarters with a strip of nodata, and four zones over it, of which the last reaches beyond. To be read only."""
    folder = tmp_path_factory.mktemp("areas")
    ids = np.zeros((200, 200), np.uint8)
    ids[:100, 100:], ids[100:, :100], ids[100:, 100:], ids[:10] = 1, 4, 6, bands.IGNORE
    write_map(folder / "map.tif", ids, weights_sha256="ab" * 32)
    zones = [box(10, 20, 90, 90), box(50, 50, 150, 150), box(0, 0, 200, 40), box(150, 150, 250, 190)]
    write_zones(folder / "zones.gpkg", zones, ["a <b>&amp;", "=1+1", "Süd", ""])
    return folder


def run(*arguments: object) -> None:
    areas.main([str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def evaluation(path: Path, confusion: np.ndarray, classes: bands.Classes, **more) -> Path:
    """Writes an evaluation of [label, prediction]."""
    tree = {
        "classes": list(classes.names),
        "class_colours": list(classes.colours),
        "confusion_matrix": confusion.tolist(),
    }
    path.write_text(json.dumps(tree | more))
    return path


def test_a_table(folder, tmp_path, capsys):
    run(folder / "map.tif", "--zones", folder / "zones.gpkg", "--zone_field", "name", "--output", tmp_path / "a.csv")
    rows = rows_of(tmp_path / "a.csv")
    assert [row["zone"] for row in rows] == ["a <b>&amp;", "=1+1", "Süd", ""]
    assert list(rows[0]) == [
        "zone",
        *(f"{name}_hectares" for name in bands.CLASSES),
        *("mapped_hectares", "nodata_hectares", "outside_hectares", "hectares"),
    ]
    for row in rows:
        of = {name: float(text) for name, text in row.items() if name != "zone"}
        assert sum(of[f"{name}_hectares"] for name in bands.CLASSES) == pytest.approx(of["mapped_hectares"], abs=1e-5)
        parts = of["mapped_hectares"] + of["nodata_hectares"] + of["outside_hectares"]
        assert parts == pytest.approx(of["hectares"], abs=1e-5)
    shares = [float(rows[1][f"{bands.CLASSES[place]}_hectares"]) / float(rows[1]["hectares"]) for place in (0, 1, 4, 6)]
    assert shares == pytest.approx([0.25] * 4, rel=1e-4)
    assert float(rows[2]["nodata_hectares"]) == pytest.approx(float(rows[2]["hectares"]) / 4, rel=1e-4)
    assert float(rows[3]["outside_hectares"]) == pytest.approx(float(rows[3]["hectares"]) / 2, rel=1e-4)
    told = capsys.readouterr()
    assert "1 of 4 zones of" in told.err and "lie in the map in part" in told.err
    assert "1 of 4 zones of" in told.err and "have no name" in told.err
    assert "a.csv: 4 zones" in told.out
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["gpkg", "shp", "geojson", "fgb", "parquet"])
def test_zones_of_each_kind_in_degrees(folder, tmp_path, kind):
    """A zone as a vector file of another kind and in another CRS has the same areas; without a field they are numbered."""
    zone = shapely.segmentize(box(10.5, 20.25, 90, 90), 20)
    run(folder / "map.tif", "--zones", write_zones(tmp_path / "one.gpkg", [zone]), "--output", tmp_path / "utm.csv")
    x, y = shapely.get_coordinates(zone).T
    lon, lat = rasterio.warp.transform("EPSG:32643", "EPSG:4326", x, y)
    moved = shapely.Polygon(np.stack([lon, lat], axis=-1))
    path = tmp_path / f"two.{kind}"
    if kind == "parquet":
        utm = write_zones(tmp_path / "two.gpkg", [moved], crs="EPSG:4326")
        run(folder / "map.tif", "--zones", utm, "--output", path)
    else:
        write_zones(path, [moved], crs="EPSG:4326")
    run(folder / "map.tif", "--zones", path, "--output", tmp_path / "degrees.csv")
    (one,), (other,) = rows_of(tmp_path / "utm.csv"), rows_of(tmp_path / "degrees.csv")
    assert one["zone"] == other["zone"] == "1"
    for name in one:
        assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-6, abs=1e-5)


def test_geoparquet_keeps_the_zones(folder, tmp_path):
    path = tmp_path / "a.parquet"
    run(folder / "map.tif", "--zones", folder / "zones.gpkg", "--zone_field", "name", "--output", path)
    run(folder / "map.tif", "--zones", folder / "zones.gpkg", "--zone_field", "name", "--output", tmp_path / "a.csv")
    for place, field in enumerate(("zone", "crops_hectares", "hectares")):
        vectors, notes = read_vectors(path, "", field)
        assert not notes and vectors.crs == CRS.from_epsg(32643)
        given = [row[field] for row in rows_of(tmp_path / "a.csv")]
        if place:
            assert [float(value) for value in vectors.values] == pytest.approx([float(value) for value in given])
        else:
            assert vectors.values == given
    _, _, expected, _ = pyogrio.raw.read(folder / "zones.gpkg")
    for one, other in zip(vectors.wkb, expected, strict=True):
        assert shapely.equals(shapely.from_wkb(one), shapely.from_wkb(other))


def test_the_published_correction(tmp_path, capsys):
    """Section 5.2 of Olofsson et al. 2014 to the digits printed there, over a map of as many pixels of 30 m."""
    ids = np.repeat(np.arange(4, dtype=np.uint8), [200_000, 150_000, 3_200_000, 6_450_000]).reshape(2000, 5000)
    transform = rasterio.Affine(30, 0, 1_000_000, 0, -30, 3_000_000)
    path = write_map(tmp_path / "map.tif", ids, "EPSG:6933", transform, FOREST)
    halves = [box(0, 0, 2500, 2000, transform), box(2500, 0, 5000, 2000, transform)]
    zones = write_zones(tmp_path / "zones.gpkg", halves, crs="EPSG:6933")
    by = evaluation(tmp_path / "evaluation_test.json", OLOFSSON.T, FOREST)
    run(path, "--zones", zones, "--evaluation", by, "--output", tmp_path / "a.csv")
    rows = rows_of(tmp_path / "a.corrected.csv")
    assert [row["class"] for row in rows] == list(FOREST.names)
    assert [round(float(row["mapped_hectares"]), 2) for row in rows] == [18_000, 13_500, 288_000, 580_500]
    halves = [round((float(row["high"]) - float(row["low"])) / 2) for row in rows]
    printed = [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    assert list(zip([round(float(row["hectares"])) for row in rows], halves, strict=True)) == printed
    assert round(float(rows[0]["hectares"]) / 0.09) == 235_086
    assert round((float(rows[0]["high"]) - float(rows[0]["low"])) / 2 / 0.09) == 68_418
    told = capsys.readouterr()
    assert re.search(r"deforestation +18,000\.0 ha +2\.0 % +corrected +21,157\.\d ± 6,15\d\.\d ha", told.out)
    assert "the 2 zones are as mapped: the evaluation does not say in which" in told.err
    assert "a.csv: 2 zones, and a.corrected.csv" in told.out


def test_classes_with_too_few_samples_and_other_weights_are_told(folder, tmp_path, capsys):
    confusion = np.zeros((9, 9), np.int64)
    confusion[0, 0], confusion[1, 1], confusion[4, 4], confusion[6, 6] = 50, 40, 30, 1
    by = evaluation(tmp_path / "e.json", confusion, bands.DYNAMIC_WORLD, weights_sha256="cd" * 32)
    run(folder / "map.tif", "--zones", folder / "zones.gpkg", "--evaluation", by, "--output", tmp_path / "a.html")
    told = capsys.readouterr().err
    assert "is of other weights than those that made" in told
    assert re.search(r"[\d.]+ % of the mapped area is not in the estimates: .* mapped as built \(1\)", told)
    assert "take the labelled pixels for a random sample" in told and "the 4 zones are as mapped" in told
    assert "fewer than two labelled pixels are mapped" in (tmp_path / "a.html").read_text()


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """The folder of a region over two UTM zones, as `map_region` leaves it; and the hectares of its classes by its own count."""
    folder = tmp_path_factory.mktemp("region")
    (folder / "blocks").mkdir()
    area = blocks.box(17.98, 45.0, 18.02, 45.02)
    done = list(blocks.blocks_of(area, 64))
    hectares = np.zeros(256)
    for number, block in enumerate(done):
        inside = blocks.inside(block, area)
        ids = np.where(inside, (np.indices(inside.shape).sum(axis=0) // 16 + number) % 9, bands.IGNORE).astype(np.uint8)
        hectares += np.bincount(ids[inside], blocks.pixel_hectares(block)[inside], 256)
        write_map(folder / "blocks" / f"{block.name}.tif", ids, block.crs, block.grid.transform)
    assert len(mosaics.write_mosaics(folder, done, bands.DYNAMIC_WORLD)) == 2
    return folder, hectares[:9]


def test_a_regions_folder_over_two_utm_zones(region, tmp_path, capsys):
    folder, hectares = region
    zones = [shapely.box(17.97, 44.99, 18.03, 45.03), shapely.box(17.99, 45.005, 18.01, 45.015)]
    path = write_zones(tmp_path / "zones.gpkg", zones, crs="EPSG:4326")
    run(folder, "--zones", path, "--output", tmp_path / "a.csv")
    whole, inner = ({name: float(text) for name, text in row.items()} for row in rows_of(tmp_path / "a.csv"))
    found = [whole[f"{name}_hectares"] for name in bands.CLASSES]
    assert found == pytest.approx(hectares, rel=1e-6)  # as `summary.json` has them
    assert whole["nodata_hectares"] + whole["outside_hectares"] > 1000
    for row, zone in zip((whole, inner), zones, strict=True):
        true = abs(Geod(ellps="WGS84").geometry_area_perimeter(shapely.segmentize(zone, 1e-4))[0]) / 1e4
        assert row["hectares"] == pytest.approx(true, rel=3e-4)
    # No ground is lost or counted twice where the UTM zones meet.
    assert inner["mapped_hectares"] == pytest.approx(inner["hectares"], rel=3e-4)
    assert not inner["outside_hectares"]
    run(folder / "mosaic_33N.vrt", "--zones", path, "--output", tmp_path / "b.csv")
    assert float(rows_of(tmp_path / "b.csv")[1]["mapped_hectares"]) == pytest.approx(inner["hectares"] / 2, rel=0.02)


@pytest.mark.parametrize(("s2_day", "s1_day"), [("20200604", "20200607"), ("20200813", "20200903")])
def test_a_map_of_a_real_scene(real, tmp_path, s2_day, s1_day):
    """A map of `scene_pakistan`, which is in degrees: districts that fill its box add up to the box, whose area is that of geodesics."""
    scene = real / "scene_pakistan"
    s2, s1 = next((scene / "s2_l2a").glob(f"{s2_day}*")), next((scene / "s1").glob(f"*_{s1_day}T*"))
    sensors = ("--s2", s2, "--s1", s1)
    bundle = REPOSITORY / "tests" / "bundles" / "bundle_1.safetensors"
    result = command("specsar_jax.predict", "--workdir", bundle, *sensors, "--output", "map.tif", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with rasterio.open(tmp_path / "map.tif", driver="GTiff") as made:
        west, south, east, north = made.bounds
        pixels = np.bincount(made.read(1).ravel(), minlength=256)[:9]
        assert made.crs == CRS.from_epsg(4326)
    lon, lat = np.linspace(west, east, 4), np.linspace(south, north, 4)
    cells = [shapely.box(lon[i], lat[j], lon[i + 1], lat[j + 1]) for i in range(3) for j in range(3)]
    run(
        *(tmp_path / "map.tif", "--zones", write_zones(tmp_path / "z.gpkg", cells, crs="EPSG:4326")),
        *("--output", tmp_path / "a.csv"),
    )
    rows = rows_of(tmp_path / "a.csv")
    box_hectares = (
        abs(
            Geod(ellps="WGS84").geometry_area_perimeter(
                shapely.segmentize(shapely.box(west, south, east, north), 1e-4)
            )[0]
        )
        / 1e4
    )
    found = [sum(float(row[f"{name}_hectares"]) for row in rows) for name in bands.CLASSES]
    nodata, outside, total = (
        sum(float(row[name]) for row in rows) for name in ("nodata_hectares", "outside_hectares", "hectares")
    )
    assert total == pytest.approx(box_hectares, rel=1e-6) and outside == pytest.approx(0, abs=1e-6)
    assert sum(found) + nodata == pytest.approx(total, rel=1e-6)
    assert np.array(found) / total == pytest.approx(pixels / made.height / made.width, abs=2e-4)


def test_the_page_in_a_browser(folder, tmp_path):
    page = tmp_path / "a.html"
    by = evaluation(tmp_path / "e.json", 20 * np.eye(9, dtype=np.int64) + 1, bands.DYNAMIC_WORLD)
    zones = folder / "zones.gpkg"
    run(folder / "map.tif", "--zones", zones, "--zone_field", "name", "--evaluation", by, "--output", page)
    text = page.read_text()
    assert (
        "<b>" not in text and "a &lt;b&gt;&amp;amp;" in text and "http://" not in text.replace("http://www.w3.org", "")
    )
    with started() as browser:
        opened, troubles, asked = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
        opened.on("console", lambda message: troubles.append(message.text))
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page.as_uri())
        assert opened.locator("svg path").count() == 4
        assert opened.locator("svg path title").first.text_content().startswith("a <b>&amp;: 100 % water; ")
        table = opened.locator("table").nth(1)
        cells = [row.locator("td").all_text_contents() for row in table.locator("tbody tr").all()]
        for row in cells:
            *parts, total = (float(cell.replace(",", "")) for cell in row)
            assert sum(parts) == pytest.approx(total, abs=0.3)
        for width in (1280, 400):
            opened.set_viewport_size({"width": width, "height": 900})
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            for scheme in ("light", "dark"):
                opened.emulate_media(color_scheme=scheme)
                assert violations(opened) == []
    assert not troubles and [url for url in asked if url.startswith("http")] == []


def bow(*corners: tuple[float, float]):
    return shapely.Polygon([UTM @ corner for corner in corners])


def test_what_is_refused(folder, tmp_path):
    zones, good, out = folder / "zones.gpkg", folder / "map.tif", tmp_path / "a.csv"
    away = write_zones(tmp_path / "away.gpkg", [box(5000, 5000, 6000, 6000)])
    invalid = write_zones(tmp_path / "bow.gpkg", [bow((0, 0), (50, 50), (50, 0), (0, 50))])
    points = write_zones(tmp_path / "points.gpkg", [shapely.Point(UTM @ (5, 5))], kind="Point")
    nowhere = write_zones(tmp_path / "nowhere.shp", [box(0, 0, 9, 9)])
    nowhere.with_suffix(".prj").unlink()
    empty = write_zones(tmp_path / "empty.gpkg", [None])
    shares = tmp_path / "shares.tif"
    with rasterio.open(
        shares, "w", driver="GTiff", count=9, height=4, width=4, dtype="uint8", crs="EPSG:32643", transform=UTM
    ):
        pass
    with warnings.catch_warnings(action="ignore"):
        unplaced = write_map(tmp_path / "unplaced.tif", np.zeros((4, 4), np.uint8), "")
    other = evaluation(tmp_path / "other.json", OLOFSSON, FOREST)
    nothing = evaluation(tmp_path / "nothing.json", np.zeros((9, 9), np.int64), bands.DYNAMIC_WORLD)
    (tmp_path / "none.json").write_text('{"dataset": "x"}')
    (tmp_path / "folder").mkdir()
    for given, message in (
        (
            (good, "--zones", away),
            "no zone has a part in the map: the zones lie at longitude .*is the CRS of the zones right",
        ),
        (
            (good, "--zones", invalid),
            "1 of 1 features are not valid, the first one number 1, Self-intersection.*--mend",
        ),
        ((good, "--zones", points), "points.gpkg has points, expected polygons"),
        ((good, "--zones", nowhere), "does not say its CRS; give it: --zones_crs EPSG:4326"),
        ((good, "--zones", empty), "has no polygon .1 of 1 features of .* have no geometry"),
        ((good, "--zones", zones, "--zone_field", "nome"), "has no field 'nome'; did you mean 'name'"),
        ((good, "--zones", zones, "--zones_crs", "EPSG:4326"), "give the right one as --zones_crs"),
        ((good, "--zones", tmp_path / "x.gpkg"), "no file .*x.gpkg; expected a vector file"),
        ((good, "--zones", good), "is not a vector file that is known"),
        ((shares, "--zones", zones), "holds 9 bands, expected a class map"),
        ((unplaced, "--zones", zones), "has no place on earth"),
        ((tmp_path / "x.tif", "--zones", zones), "cannot open .*x.tif: no such file"),
        ((tmp_path / "folder", "--zones", zones), "has no mosaic_<zone>.vrt"),
        (
            (good, "--zones", zones, "--evaluation", other),
            "is of the classes deforestation, .*the map has water, trees",
        ),
        ((good, "--zones", zones, "--evaluation", nothing), "has no labelled pixel"),
        ((good, "--zones", zones, "--evaluation", tmp_path / "none.json"), "it has no confusion_matrix"),
        ((good, "--zones", zones, "--evaluation", zones), "is no evaluation"),
        ((good, "--zones", zones, "--evaluation", tmp_path / "y.json"), "y.json cannot be read: No such file"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            run(*given, "--output", out)
        assert "\n" not in str(error.value) and "label" not in str(error.value).replace("labelled", "")
        assert not out.exists()
    for name, message in (
        ("a.xlsx", "ends in '.xlsx', expected one of .csv, .parquet, .html"),
        ("no/a.csv", "no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            run(good, "--zones", zones, "--output", tmp_path / name)
    assert not list(tmp_path.glob(".*.partial"))


def test_zones_are_mended_when_told_to(folder, tmp_path, capsys):
    path = write_zones(tmp_path / "bow.gpkg", [bow((0, 20), (50, 70), (50, 20), (0, 70))])
    run(folder / "map.tif", "--zones", path, "--mend", "--output", tmp_path / "a.csv")
    assert float(rows_of(tmp_path / "a.csv")[0]["water_hectares"]) == pytest.approx(12.5, rel=2e-3)
    assert "1 polygons of" in capsys.readouterr().err


def test_an_output_of_another_process_and_a_map_without_a_class(folder, tmp_path, capsys):
    given = (folder / "map.tif", "--zones", folder / "zones.gpkg", "--output", tmp_path / "a.html")
    with output_claimed(tmp_path / "a.html", "--output"), pytest.raises(ValueError, match="another process is at work"):
        run(*given)
    empty = write_map(tmp_path / "empty.tif", np.full((200, 200), bands.IGNORE, np.uint8))
    by = evaluation(tmp_path / "e.json", 20 * np.eye(9, dtype=np.int64), bands.DYNAMIC_WORLD)
    run(empty, *given[1:], "--evaluation", by)
    assert "4 zones" in capsys.readouterr().out and "0.0 ha of them are mapped" in (tmp_path / "a.html").read_text()


def test_as_a_user_runs_it(folder, tmp_path):
    given = ("specsar_jax.areas", folder / "map.tif", "--zones", folder / "zones.gpkg", "--output", "a.csv")
    result = command(*given, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(rows_of(tmp_path / "a.csv")) == 4
    assert "expected one of .csv" in refused(command(*given[:-1], "a.gpkg", cwd=tmp_path))
