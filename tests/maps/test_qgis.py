"""The style of QGIS, as QGIS 3 saves such styles."""

from xml.etree import ElementTree

from specsar_jax.maps import qgis
from tfds_dwplus import bands


def test_style():
    text = qgis.style(bands.DYNAMIC_WORLD)
    assert text.startswith("<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n<qgis ")
    root = ElementTree.fromstring(text)
    renderer = root.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band"), renderer.get("alphaBand")) == ("paletted", "1", "-1")
    entries = [entry.attrib for entry in renderer.findall("colorPalette/paletteEntry")]
    assert [int(entry["value"]) for entry in entries] == list(range(9))
    assert [entry["label"].replace(" ", "_") for entry in entries] == list(bands.CLASSES)
    assert [entry["color"] for entry in entries] == [f"#{colour}" for colour in bands.CLASS_COLOURS]
    assert {entry["alpha"] for entry in entries} == {"255"}
