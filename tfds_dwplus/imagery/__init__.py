"""Satellite imagery: reading Sentinel-2 and Sentinel-1 from files and archives, and resampling it to a grid.

Enters: raster files, Sentinel products, or scenes of a STAC API or of Earth Engine. Leaves: pixels on a wanted grid:
Sentinel-2 as digital numbers (reflectance x 10000), Sentinel-1 as dB.

Start with `grids`. Two paths follow. Files of one scene: `scene_files` lists them, `scenes` finds the bands, `rasters`
reads windows. Archives: `acquisitions` says what is wanted and chooses scenes, `stac_api` and `stac` or `earth_engine`
fetch them; `archive_options` are the command line's options.
"""
