"""The style of a map for QGIS, which takes it from a file of the map's name that ends in .qml.

Enters: nothing; classes and colours are those of `bands`. Leaves: XML text. QGIS has the names from here, for it does not read
the category names of a GeoTIFF.

Source: what QGIS 3 itself saves of a layer that is drawn by "Paletted/Unique values"
(https://docs.qgis.org/latest/en/docs/user_manual/appendices/qgis_file_formats.html). QGIS 3.22 drew a map so, by itself.
"""

from xml.etree import ElementTree

from tfds_dwplus import bands

VERSION = "3.16.0"
"""Of QGIS, as which the file is to be read; newer ones read the styles of older ones."""


def style() -> str:
    """Symbology of a class map: band 1, class ids 0 to 8 in their colours; 255, the nodata of the file, is not drawn."""
    root = ElementTree.Element("qgis", version=VERSION, styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    ElementTree.SubElement(renderer, "rasterTransparency")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for class_id, (name, colour) in enumerate(zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True)):
        entry = {"value": str(class_id), "color": f"#{colour}", "alpha": "255", "label": name.replace("_", " ")}
        ElementTree.SubElement(palette, "paletteEntry", entry)
    ElementTree.SubElement(root, "blendMode").text = "0"  # over what lies below, not mixed with it
    ElementTree.indent(root)
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        + ElementTree.tostring(root, encoding="unicode")
        + "\n"
    )
