"""Files behind an input: what a VRT, a zip or an address stands for, and whether it changed.

Enters: paths and addresses of inputs. Leaves: the files that they are made of (`source_files`), the files beside a raster that
GDAL reads with it (`sidecars`), and identities that a resumed map compares (`fingerprints`).
"""
