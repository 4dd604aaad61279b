"""Labels of tiles by a network: `python -m tfds_dwplus.label`.

Enters: class probabilities of a tile, and its Sentinel-2. Leaves: label codes, shares for `probability/`, and what says that a network
made them. `pixels` decides pixel by pixel, `clouds` finds clouds, `folder` reads and writes the folder of tiles, `annotators` tells
labels of networks from those of people, wherever figures are printed. `class_table` has the classes of a folder, whoever labelled it.
"""
