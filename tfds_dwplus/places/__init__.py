"""Places of one's own: regions as polygons, tiles drawn in them by lot, and clear imagery for each. Needs shapely (extra acquire)."""
