"""Stands here because data sets prepared before the package was divided into rooms name this module in `features.json`: TFDS imports it, and so the whole package.

The features themselves are in `tfds_dwplus.tiles.records`, which registers them under their old names too.
"""
