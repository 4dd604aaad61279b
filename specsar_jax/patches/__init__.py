"""Patches of a class map, the pixels of one class that are connected by their sides: small ones join others, all become polygons.

Start in `joining.py`, which says what joins what, and `polygons.py`. Maps of any height are read strip by strip, and nothing depends on the strips.

asked            what a command is asked to make, checked before any mapping begins
pieces           the connected pixels of a strip
joining          which patches join which
generalising     a map with small patches joined to others
outlines         rings about patches
polygons         patches as polygons
pixel_areas      the area of pixels, and what a minimum area is on a grid
class_rasters    maps as files, strip by strip
vector_files     GeoPackage, GeoParquet, GeoJSON
"""
