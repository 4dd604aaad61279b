"""What a raster's numbers mean: one rule for each question, for files, archives, arrays and prepared tiles alike.

Enters: stored numbers of a band, and whatever metadata say of them. Leaves: Sentinel-2 as digital numbers (reflectance x
10000, 0 where there is no data), Sentinel-1 as dB (NaN where there is no data).

`declared` reads what tags, items, attributes and product metadata say. `reflectance` decides scale and offset of a
scene, once, and applies them. `backscatter` checks the unit and converts. Nothing here opens a file.
"""
