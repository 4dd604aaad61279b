"""Devices: the mesh, how arrays are sharded over it, compiling, and memory use.

Enters: the mesh settings of the config. Leaves: a mesh, shardings, compiled programs, and the memory they took. Start at
`sharding`: the mesh ("data", "model") over which batches and weights are split, in one process or many.
"""
