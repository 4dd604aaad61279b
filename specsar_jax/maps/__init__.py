"""Mapping: a scene in, land-cover classes and class probabilities out, as files or arrays.

Enters: an opened scene, or pixels in memory, and a trained network. Leaves: class maps, probabilities and confidences. Start at
`scene_map`, which reads and writes files; `windows` divides a scene into windows, `mapping` blends the network's results for them,
`map_files` keeps finished strips and joins them, `publishing` gives the files their names.
"""
