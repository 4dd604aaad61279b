"""Regions: maps a region of the earth from the imagery of a STAC archive, block by block.

Enters: a region, a range of dates, a STAC archive and a trained network. Leaves: a folder with a map of each block of a fixed
grid, mosaics and the areas of the classes. Start at `region_map`; `block_maps` maps one block, on any worker.
"""
