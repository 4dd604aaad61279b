"""Satellite imagery: reading Sentinel-2 and Sentinel-1 from files and archives, and resampling it to a grid.

Enters: raster files, Sentinel products, or scenes of a STAC API or of Earth Engine. Leaves: pixels on a wanted grid:
Sentinel-2 as digital numbers (reflectance x 10000), Sentinel-1 as dB.

Start with `grids` and `decoder`, which says what stored numbers mean, for every way in. `rasters` reads windows of bands.
Two paths follow. Files of one scene: `scene_files` lists them, `scenes` finds the bands, `inputs` tells whether they changed.
Archives: `acquisitions` says what is wanted and chooses scenes, `stac_api` finds items, `items` reads what they say of
themselves, `stac_reading` their pixels, `stac` or `earth_engine` makes the imagery of a tile; `archive_options` are the
command line's options.

Rasters are read by rasterio, a window of a band at a time, and not by odc-stac or stackstac, which resample the stored
numbers of all bands in one call. Three things have to come between reading and resampling. Backscatter in dB is converted to
linear power: half-way between 0 and -20 dB lie -3 dB, not -10 (`tests/imagery/test_scenes.py`,
`test_backscatter_is_interpolated_in_power`). Values that are no measurement, such as border noise, are taken out before they are
mixed into their neighbours. And a mask beside or inside a file counts, where odc-stac's reader (`rio_read` of odc-loader) pastes
stored numbers by the nodata value alone. An item that cannot be read costs that item, with its reason, not the whole load.
"""
