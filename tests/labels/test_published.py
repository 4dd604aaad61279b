"""Published label files: what their names, folders and bands mean, and which of them are refused."""

import functools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tfds_dwplus import bands
from tfds_dwplus.labels.label_files import read_label, votes
from tfds_dwplus.labels.published import LabelTile, hemisphere_of, survey
from tfds_dwplus.simulate import simulated_tile

BRAZIL = "dw_-63.3512901800_-3.9093045532-20190812"
GABON = "dw_11.5000000000_-0.7000000000-20180630"
OMAN = "dw_57.1000000000_20.2000000000-20190101"


@functools.cache
def codes_of(index: int, size_px: int = 510) -> np.ndarray:
    """Codes of a simulated landscape, with a corner unmarked and one of cloud."""
    codes = simulated_tile(3, "train", index, 64).label + np.uint8(1)
    codes = np.tile(codes, (8, 8))[:size_px, :size_px].copy()
    codes[:9, :9], codes[-9:, -9:] = 0, 10
    codes.flags.writeable = False
    return codes


def write(path: Path, codes: np.ndarray, names=(), crs="EPSG:32720", pixel_m=10.0, dtype="uint8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = codes[None] if codes.ndim == 2 else codes
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=layers.shape[1],
        width=layers.shape[2],
        count=layers.shape[0],
        dtype=dtype,
        crs=crs,
        transform=rasterio.Affine(pixel_m, 0, 460000, 0, -pixel_m, 9570000),
        compress="deflate",
    ) as raster:
        raster.write(layers.astype(dtype))
        if names:
            raster.descriptions = names
    return path


def pack(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return archive


def one(tile_id: str, **of: LabelTile) -> LabelTile:
    return next(tile for tile in of["among"] if tile.tile_id == tile_id)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A download folder as from PANGAEA: three zips; one train tile lies at the place of a held-out one."""
    write(tmp_path / "1/Experts/WH/1" / f"{BRAZIL}.tif", codes_of(0))
    write(tmp_path / "1/Experts/EH/13" / f"{OMAN}.tif", codes_of(1), crs="EPSG:32640")
    write(tmp_path / "2/Non_expert/WorkForce/WH/1" / f"label_{BRAZIL}.TIF", codes_of(2))
    write(tmp_path / "2/Non_expert/WorkForce/EH/1" / f"{GABON}.tif", codes_of(3), crs="EPSG:32732")
    for number, vote in enumerate(("Three_expert_strict", "expert-consensus", "Expert Simple Majority", "majority")):
        write(tmp_path / "3" / vote / "EH/1" / f"{GABON}.tif", codes_of(10 + number), crs="EPSG:32732")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for number, name in enumerate(("Experts_tiles", "Non_expert_tiles", "validation_set_tiles"), start=1):
        pack(tmp_path / str(number), downloads / f"{name}.zip")
    return downloads


def test_zips_of_pangaea(published):
    found = survey([published])
    facts = {t.tile_id: (t.split, t.annotator, t.hemisphere, t.biome, t.lon, t.lat, t.date) for t in found.tiles}
    assert facts == {
        GABON: ("test", "held_out", "EH", 1, 11.5, -0.7, "2018-06-30"),
        OMAN: ("train", "expert", "EH", 13, 57.1, 20.2, "2019-01-01"),
        BRAZIL: ("train", "expert", "WH", 1, -63.35129018, -3.9093045532, "2019-08-12"),
        f"{BRAZIL}_non_expert": ("train", "non_expert", "WH", 1, -63.35129018, -3.9093045532, "2019-08-12"),
    }
    assert [tile.tile_id for tile in found.tiles] == sorted(facts)
    assert [(Path(path).name, reason) for path, reason in found.skipped] == [
        (f"{GABON}.tif", "a train tile at the place of a held-out one")
    ]
    label = read_label(one(BRAZIL, among=found.tiles))
    np.testing.assert_array_equal(label.codes, codes_of(0))
    assert label.crs == "EPSG:32720" and label.transform == (10, 0, 460000, 0, -10, 9570000) and label.votes == {}
    np.testing.assert_array_equal(read_label(one(f"{BRAZIL}_non_expert", among=found.tiles)).codes, codes_of(2))
    held_out = read_label(one(GABON, among=found.tiles))
    for number, vote in enumerate(bands.VOTES):
        np.testing.assert_array_equal(held_out.votes[vote], codes_of(10 + number), err_msg=vote)
    np.testing.assert_array_equal(held_out.codes, codes_of(11))


def test_unpacked_folders_give_the_same(published, tmp_path):
    for archive in published.iterdir():
        with zipfile.ZipFile(archive) as file:
            file.extractall(tmp_path / "unpacked" / archive.stem)
    zipped, unpacked = survey([published]).tiles, survey([tmp_path / "unpacked"]).tiles
    assert len(zipped) == 4
    assert [(t.tile_id, t.split, t.biome) for t in zipped] == [(t.tile_id, t.split, t.biome) for t in unpacked]
    for one_, other in zip(zipped, unpacked, strict=True):
        np.testing.assert_array_equal(read_label(one_).codes, read_label(other).codes)


def test_each_zip_alone(published):
    experts = survey([published / "Experts_tiles.zip"]).tiles
    assert {tile.annotator for tile in experts} == {"expert"} and len(experts) == 2
    # Without the held-out tiles nobody knows of the leak.
    assert len(survey([published / "Non_expert_tiles.zip"]).tiles) == 2


def test_votes_of_four_pixels():
    a = np.array([[1, 1, 1, 0]], np.uint8)
    b = np.array([[1, 1, 2, 0]], np.uint8)
    c = np.array([[1, 2, 3, 0]], np.uint8)
    assert {vote: codes[0].tolist() for vote, codes in votes(np.stack([a, b, c])).items()} == {
        "strict": [1, 0, 0, 0],
        "consensus": [1, 0, 0, 0],
        "simple_majority": [1, 1, 0, 0],
        "majority": [1, 1, 0, 0],
    }


def test_votes_where_some_did_not_mark():
    a = np.array([[0, 0, 10, 4]], np.uint8)
    b = np.array([[7, 9, 10, 5]], np.uint8)
    c = np.array([[7, 0, 0, 0]], np.uint8)
    assert {vote: codes[0].tolist() for vote, codes in votes(np.stack([a, b, c])).items()} == {
        "strict": [0, 0, 0, 0],
        "consensus": [7, 9, 10, 0],
        "simple_majority": [7, 0, 10, 0],
        "majority": [7, 9, 10, 0],
    }


def test_markups_of_three_experts_vote(tmp_path):
    markups = [codes_of(index) for index in range(3)]
    for name, codes in zip(("Expert_A", "Expert_B", "Expert_C"), markups, strict=True):
        write(tmp_path / "validation" / name / "EH/1" / f"{GABON}.tif", codes)
    write(tmp_path / "validation/non_expert/EH/1" / f"{GABON}.tif", codes_of(9))
    found = survey([tmp_path / "validation"])
    assert [reason for _, reason in found.skipped] == ["a non-expert's label of a held-out tile; only its experts vote"]
    label = read_label(found.tiles[0])
    assert found.tiles[0].annotator == "held_out" and tuple(label.votes) == bands.VOTES
    np.testing.assert_array_equal(label.votes["majority"], votes(np.stack(markups))["majority"])
    np.testing.assert_array_equal(label.codes, label.votes["consensus"])
    (tmp_path / "validation/Expert_C/EH/1" / f"{GABON}.tif").unlink()
    with pytest.raises(ValueError, match="2 experts' markups, expected 3"):
        read_label(survey([tmp_path / "validation"]).tiles[0])


def test_a_single_held_out_markup_is_nobodys_vote(tmp_path):
    write(tmp_path / "validation/EH/1" / f"{GABON}.tif", codes_of(0))
    label = read_label(survey([tmp_path / "validation"]).tiles[0])
    np.testing.assert_array_equal(label.codes, codes_of(0))
    assert label.votes == {}


@pytest.mark.parametrize("folder", ["dw_test", "tiles"])
def test_zenodo_counts_its_two_bands_differently(tmp_path, folder):
    lulc = codes_of(0, 512)
    model = np.where(lulc > 0, lulc - 1, 0)
    path = write(
        tmp_path / "z" / folder / f"label_{GABON}.tif", np.stack([model, lulc]), ("label", "lulc"), dtype="int16"
    )
    write(path.with_name(f"probs_{GABON}.tif"), np.full((9, 512, 512), np.nan), dtype="float32")
    found = survey([pack(tmp_path / "z", tmp_path / f"{folder}.zip")])
    (tile,) = found.tiles
    assert (tile.split, tile.annotator, tile.hemisphere, tile.biome) == ("test", "held_out", "EH", None)
    assert [reason for _, reason in found.skipped] == ["probabilities of a model, not a label"]
    label = read_label(tile)
    np.testing.assert_array_equal(label.codes, lulc)
    assert list(label.votes) == ["consensus"]


def test_pangaea_goes_before_zenodo(published, tmp_path):
    write(tmp_path / "z/dw_test" / f"label_{GABON}.tif", np.stack([codes_of(0, 512)] * 2), ("lulc", "label"))
    found = survey([pack(tmp_path / "z", tmp_path / "dw_test.zip"), published])
    tile = one(GABON, among=found.tiles)
    assert [vote for vote, _ in tile.files] == list(bands.VOTES) and all(
        "validation_set" in path for _, path in tile.files
    )
    assert any("dw_test.zip" in path and reason.startswith("the same tile as") for path, reason in found.skipped)


def test_what_is_no_label_is_skipped_with_its_reason(tmp_path):
    names = ["overview.tif", "dw_200.0_1.0-20190101.tif", "dw_1.0_1.0-20191301.tif", f"._{OMAN}.tif", f"{OMAN}.tif"]
    with zipfile.ZipFile(tmp_path / "Experts_tiles.zip", "w") as file:
        for name in [*(f"Experts/EH/2/{name}" for name in names), "Experts/more.zip", "README.txt"]:
            file.writestr(name, b"")
    found = survey([tmp_path / "Experts_tiles.zip"])
    assert [tile.tile_id for tile in found.tiles] == [OMAN]
    assert {Path(path).name: reason for path, reason in found.skipped} == {
        "overview.tif": "its name is not dw_<lon>_<lat>-<YYYYMMDD>.tif",
        "dw_200.0_1.0-20190101.tif": "longitude 200.0 and latitude 1.0 are not degrees",
        "dw_1.0_1.0-20191301.tif": "20191301 is no date",
        f"._{OMAN}.tif": "its name is not dw_<lon>_<lat>-<YYYYMMDD>.tif",
        "more.zip": "a zip inside of a zip; unpack the outer one",
    }


def test_files_of_nobody_are_refused(tmp_path):
    write(tmp_path / "some" / f"{OMAN}.tif", codes_of(0))
    with pytest.raises(ValueError, match=r"no label tile in .*no folder Experts, Non_expert or validation above it"):
        survey([tmp_path / "some"])


def test_the_same_tile_twice_is_taken_once(tmp_path):
    for biome in ("2", "3"):
        write(tmp_path / "Experts/EH" / biome / f"{OMAN}.tif", codes_of(int(biome)))
    found = survey([tmp_path / "Experts"])
    assert [tile.biome for tile in found.tiles] == [2]
    assert found.skipped[0][1].startswith("the same tile as")


def test_hemispheres_part_at_20_and_160_west():
    assert [hemisphere_of(lon) for lon in (-161.0, -160.0, -20.1, -20.0, 0.0, 179.0)] == [
        "EH",
        "WH",
        "WH",
        "EH",
        "EH",
        "EH",
    ]


SOURCE_FAULTS = {
    "not there": (lambda p: p.unlink(), "no file or folder"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "not a whole zip"),
    "an error page": (lambda p: p.write_text("<html>503</html>"), "not a whole zip"),
    "empty": (lambda p: zipfile.ZipFile(p, "w").close(), "no label tile in"),
}


@pytest.mark.parametrize("fault", SOURCE_FAULTS)
def test_sources_refused(published, fault):
    break_it, message = SOURCE_FAULTS[fault]
    break_it(published / "Experts_tiles.zip")
    with pytest.raises(ValueError, match=message) as caught:
        survey([published / "Experts_tiles.zip"])
    assert "\n" not in str(caught.value) and "Experts_tiles.zip" in str(caught.value)


def test_a_table_is_no_source(tmp_path):
    (tmp_path / "tiles.csv").write_text("tile_id\n")
    with pytest.raises(ValueError, match=r"tiles\.csv is neither a folder nor a \.zip"):
        survey([tmp_path / "tiles.csv"])


LABEL_FAULTS = {
    "size": (lambda p: write(p, codes_of(0)[:500, :500]), "is 500 x 500 pixels, expected 510 x 510"),
    "codes": (lambda p: write(p, codes_of(0) + np.uint8(3)), "holds the code 1[1-3], expected 0 to 10"),
    "fractions": (lambda p: write(p, codes_of(0) / 2, dtype="float32"), r"holds the code \d\.5"),
    "no number": (lambda p: write(p, np.full((510, 510), np.nan), dtype="float32"), "holds the code nan"),
    "degrees": (lambda p: write(p, codes_of(0), crs="EPSG:4326"), "has CRS EPSG:4326, expected a UTM zone"),
    "no place": (lambda p: write(p, codes_of(0), crs=None), "has CRS None, expected a UTM zone"),
    "20 m": (lambda p: write(p, codes_of(0), pixel_m=20), "expected pixels of 10 m, north up"),
    "bands": (lambda p: write(p, np.stack([codes_of(0)] * 2), ("label", "b2")), "expected one named lulc"),
    "cut short": (
        lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        r"is the file or its zip cut short\? \(.*failed",
    ),
    "gone": (lambda p: p.unlink(), "cannot read label"),
}


@pytest.mark.parametrize("fault", LABEL_FAULTS)
def test_labels_refused(tmp_path, fault):
    break_it, message = LABEL_FAULTS[fault]
    path = write(tmp_path / "Experts/EH/2" / f"{OMAN}.tif", codes_of(0))
    (tile,) = survey([tmp_path / "Experts"]).tiles
    break_it(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_label(tile)
    assert OMAN in str(caught.value) and "\n" not in str(caught.value)


def test_damage_inside_of_a_zip_is_noticed(published):
    archive = published / "Experts_tiles.zip"
    (tile,) = (tile for tile in survey([archive]).tiles if tile.tile_id == OMAN)
    content = bytearray(archive.read_bytes())
    content[800:900] = bytes(100)
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read label /vsizip/"):
        read_label(tile)


def test_held_out_tiles_need_one_grid_and_the_consensus(tmp_path):
    write(tmp_path / "validation/strict" / f"{GABON}.tif", codes_of(0))
    with pytest.raises(ValueError, match="has the votes strict, expected consensus"):
        read_label(survey([tmp_path / "validation"]).tiles[0])
    write(tmp_path / "validation/consensus" / f"{GABON}.tif", codes_of(0), crs="EPSG:32721")
    with pytest.raises(ValueError, match="is on another grid than"):
        read_label(survey([tmp_path / "validation"]).tiles[0])


HEADER = ("dw_id", "labeler", "Hemisphere", "biome", "biome_name", "lon", "lat", "date", "S2_PRODUCT_ID")


def book(path: Path, **sheets: list) -> Path:
    openpyxl = pytest.importorskip("openpyxl", reason="the workbook is read by the extra acquire")
    content = openpyxl.Workbook()
    content.remove(content.active)
    for name, rows in sheets.items():
        sheet = content.create_sheet(name)
        for row in rows:
            sheet.append(row)
    content.save(path)
    return path


def test_workbook_fills_in_what_the_folders_do_not_say(published, tmp_path):
    write(tmp_path / "Experts" / f"{OMAN}.tif", codes_of(0))
    product = "S2A_MSIL2A_20190101T065301_N0211_R020_T40QBJ_20190101T082935"
    rows = [
        ("dw_57.1_20.2-20190101", "e7", "EH", "13.0", "Deserts", 57.1, 20.2, "2019-01-01", product),
        (BRAZIL, "e7", "EH", 5.0, "x", 0, 0, "2019-08-12", "S2B"),
        ("dw_57.1_20.2-20190102", "e7", "EH", 2, "another day", 57.1, 20.2, "2019-01-02", "no"),
        ("a note below the table",),
        (None, None),
    ]
    path = book(tmp_path / "m.xlsx", expert=[HEADER, *rows], non_expert=[HEADER])
    (tile,) = survey([tmp_path / "Experts"], path).tiles
    assert (tile.hemisphere, tile.biome, tile.s2_product_id) == ("EH", 13, product)
    tile = one(f"{BRAZIL}_non_expert", among=survey([published], path).tiles)
    assert (tile.hemisphere, tile.biome, tile.s2_product_id) == ("WH", 1, "S2B")  # the folders go first


def test_workbook_refused(published, tmp_path):
    def message(path: Path) -> str:
        with pytest.raises(ValueError, match=path.name) as caught:
            survey([published], path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    path = book(tmp_path / "a.xlsx", expert=[("dw_id", "lon")])
    assert "sheet expert of" in message(path) and "no column hemisphere, biome, s2_product_id" in message(path)
    assert "has the sheets Sheet1, expected expert and non_expert" in message(
        book(tmp_path / "b.xlsx", Sheet1=[HEADER])
    )
    assert "no workbook" in message(tmp_path / "none.xlsx")
    path.write_bytes(path.read_bytes()[:2000])
    assert "not a whole .xlsx" in message(path)
    (tmp_path / "c.csv").write_text("dw_id\n")
    assert "not a whole .xlsx" in message(tmp_path / "c.csv")
