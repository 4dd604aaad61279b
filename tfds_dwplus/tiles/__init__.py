"""Tiles of imagery and labels: as a folder of GeoTIFFs, and as records of a TFDS data set.

Enters: label tiles and imagery, or a folder of tiles made elsewhere. Leaves: folders of tiles, records, splits,
statistics, tables and pictures of what a data set holds.

Start with `tile_files`, which defines a tile and its folder. `acquiring` fills such a folder and keeps its `manifest`; `labelling`
gives its tiles the labels of a network.
`records`, `splits` and `statistics` serve the builder; by `layout` a part of a record is read alone.
`prepared`, `contents`, `tile_pictures` and `contact_sheet` read finished data sets.
"""
