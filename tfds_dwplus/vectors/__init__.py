"""Labels of people's own, polygons and points in vector files, made tiles: `python -m tfds_dwplus.cut`.

Start with `cutting`, which goes through the scenes. `vector_files` reads a file, `geometries` checks them and puts them on the grid of a
scene, `value_table` says which class a value is, `burning` makes label codes of a window, `split_blocks` gives ground to splits.
"""
