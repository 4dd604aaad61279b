"""Areas of a map's classes by zone: districts, parcels, catchments. Start in `counting.py`.

map_parts        the rasters of a map: a file, or a region's folder of mosaics
polygons         the zones of a vector file
counting         hectares of each class in each zone, window by window
correcting       the areas of all zones together, corrected by an evaluation
tables, page     what is written: CSV, GeoParquet, a page
options          arguments of the commands that measure zones
"""
