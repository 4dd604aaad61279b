"""The QGIS style of a map: QGIS loads it from a .qml file with the map's name.

Enters: the classes of a map. Leaves: XML text. QGIS takes the class names from it, as it does not read
the category names of a GeoTIFF.

Source: the file that QGIS 3 saves for a layer with the renderer "Paletted/Unique values"
(https://docs.qgis.org/latest/en/docs/user_manual/appendices/qgis_file_formats.html). QGIS 3.22 was seen to load the style.
"""

from xml.etree import ElementTree

from tfds_dwplus.bands import Classes

VERSION = "3.16.0"
"""QGIS version of the file's format; newer versions read it too."""


def style(classes: Classes) -> str:
    """Returns the style of a class map: class ids from 0 of band 1 in their colours; 255, the file's nodata, is not drawn."""
    root = ElementTree.Element("qgis", version=VERSION, styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    ElementTree.SubElement(renderer, "rasterTransparency")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for class_id, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True)):
        entry = {"value": str(class_id), "color": f"#{colour}", "alpha": "255", "label": name.replace("_", " ")}
        ElementTree.SubElement(palette, "paletteEntry", entry)
    ElementTree.SubElement(root, "blendMode").text = "0"  # normal: covers the layers below
    ElementTree.indent(root)
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        + ElementTree.tostring(root, encoding="unicode")
        + "\n"
    )
