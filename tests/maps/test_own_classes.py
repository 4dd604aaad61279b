"""Maps of networks with classes of their own: tags, colours, names, probabilities, arrays; and what does not go together."""

import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import xarray as xr
from drawn_networks import OWN, SMALL_PRESETS, drawn, many
from rasterio.enums import ColorInterp
from small_scenes import GRID, files_of, scene

from specsar_jax.config import Predict
from specsar_jax.maps import map_files, qgis, scene_map, tile_maps
from specsar_jax.maps.arrays import Network
from specsar_jax.maps.map_files import Outputs, UnfinishedMap
from tfds_dwplus import bands


def share(classes: bands.Classes) -> np.ndarray:
    """Probabilities of a map in which row i is of class i, and the last one without data."""
    probability = np.full((40, 30, len(classes)), 0.2 / len(classes), np.float32)
    for row in range(39):
        probability[row, :, row % len(classes)] += 0.8
    probability[39] = np.nan
    return probability


@pytest.mark.parametrize("classes", [many(2), many(3), OWN, many(64)], ids=len)
def test_files_of_a_map(classes, tmp_path):
    outputs = Outputs(tmp_path / "map.tif", tmp_path / "shares.tif")
    map_files.write_map(GRID, outputs, classes, {"made": "by hand"}, share(classes))
    with rasterio.open(outputs.map) as raster:
        assert [raster.tags()[f"class_{i}"] for i in range(len(classes))] == list(classes.names)
        assert f"class_{len(classes)}" not in raster.tags()
        colours = raster.colormap(1)
        assert [colours[i][:3] for i in range(len(classes))] == classes.rgb()
        ids = raster.read(1)
    assert ids[:39, 0].tolist() == [row % len(classes) for row in range(39)] and (ids[39] == 255).all()
    with rasterio.open(outputs.probabilities) as raster:
        assert raster.descriptions == classes.names and raster.count == len(classes)
        assert not {ColorInterp.alpha, ColorInterp.red} & set(raster.colorinterp)
        expected = np.moveaxis(share(classes), -1, 0)[:, :39]
        np.testing.assert_allclose(raster.read()[:, :39] * np.float32(0.004), expected, atol=0.0021)
        assert (raster.read()[:, 39] == 255).all()
    names = ElementTree.parse(tmp_path / "map.tif.aux.xml").getroot().findall(".//CategoryNames/Category")
    assert [name.text for name in names] == list(classes.names)
    entries = ElementTree.fromstring((tmp_path / "map.qml").read_text()).findall(".//paletteEntry")
    assert [(int(e.get("value")), e.get("color")[1:]) for e in entries] == list(enumerate(classes.colours))
    assert [e.get("label") for e in entries] == [name.replace("_", " ") for name in classes.names]
    assert qgis.style(classes) == (tmp_path / "map.qml").read_text()


def test_a_network_maps_its_own_classes(tmp_path):
    scene(tmp_path, 70, 60)
    trained, outputs = (
        drawn(SMALL_PRESETS["specsar_former"], classes=OWN),
        Outputs(tmp_path / "m.tif", tmp_path / "p.tif"),
    )
    assert scene_map.map_scene(trained, *files_of(tmp_path), outputs, Predict(window_px=64))
    with rasterio.open(outputs.map) as map_, rasterio.open(outputs.probabilities) as raster:
        ids, shares = map_.read(1), raster.read()
        assert map_.tags()["class_1"] == raster.descriptions[1] == OWN.names[1]
    assert shares.shape == (4, 70, 60)
    seen = ids != 255
    assert set(np.unique(ids[seen])) <= {0, 1, 2, 3} and len(np.unique(ids[seen])) > 1
    np.testing.assert_allclose(shares[:, seen].sum(axis=0) * 0.004, 1, atol=0.01)


def test_an_unfinished_map_is_of_one_networks_classes(tmp_path):
    outputs = Outputs(tmp_path / "map.tif")
    unfinished = UnfinishedMap(GRID, outputs, OWN, {}, [0, 20], {})
    unfinished.write(0, np.zeros((20, 30), np.uint8))
    for others in (bands.DYNAMIC_WORLD, dataclasses.replace(OWN, colours=OWN.colours[::-1])):
        with pytest.raises(ValueError, match=r"begun with other settings \(classes\); finish it with those, or remove"):
            UnfinishedMap(GRID, outputs, others, {}, [0, 20], {})
    assert UnfinishedMap(GRID, outputs, OWN, {}, [0, 20], {}).missing == [1]


def test_a_map_of_nine_classes_that_was_begun_before_goes_on(tmp_path):
    outputs = Outputs(tmp_path / "map.tif")
    unfinished = UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0, 20], {})
    assert "classes" not in (unfinished.folder / "settings.json").read_text()


def test_maps_of_tiles(tmp_path):
    class_id = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    place = {"crs": "EPSG:32630", "transform": tuple(GRID.transform)[:6]}
    tile_maps.write_tile_map(tmp_path, {"tile_id": "a"} | place, class_id, OWN)
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert [raster.tags()[f"class_{i}"] for i in range(4)] == list(OWN.names)
        assert [raster.colormap(1)[i][:3] for i in range(4)] == OWN.rgb()
        np.testing.assert_array_equal(raster.read(1), class_id)


def test_arrays_have_the_classes_of_the_network(tmp_path):
    tile = scene(tmp_path, 70, 60)
    named = {"dims": ("band", "y", "x")}
    s2 = xr.DataArray(np.moveaxis(tile.s2, -1, 0), coords={"band": list(bands.S2_BANDS)}, **named)
    s1 = xr.DataArray(np.moveaxis(tile.s1, -1, 0), coords={"band": list(bands.S1_BANDS)}, **named)
    network = Network(drawn(SMALL_PRESETS["specsar_former"], classes=OWN))
    made = network.predict(s2, s1, s2_offset=0)
    assert made.probability.shape == (4, 70, 60)
    assert made.probability["class"].values.tolist() == list(OWN.names)
    assert made.label.attrs["flag_values"].tolist() == [0, 1, 2, 3]
    assert made.label.attrs["flag_meanings"] == "wheat_barley foret_dense the_old_town desert_s_edge"
    lazy = network.predict(s2.chunk(x=40), s1.chunk(x=40), s2_offset=0)
    assert lazy.probability.shape == (4, 70, 60)
    np.testing.assert_array_equal(lazy.label, made.label)


def test_names_for_machines_are_words_of_their_own():
    assert bands.DYNAMIC_WORLD.words() == list(bands.CLASSES)
    names = ("a_b_1", "a b", "a_b", "A.b", "&", "forêt", "50 % sand", "水", "a!b")
    classes = bands.Classes(names, bands.CLASS_COLOURS[: len(names)])
    assert classes.words() == ["a_b_1", "a_b", "a_b_2", "A_b", "class_4", "foret", "50_sand", "class_7", "a_b_8"]
