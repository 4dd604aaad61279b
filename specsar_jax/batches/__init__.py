"""Batches: records of a prepared data set to what the network is given.

Enters: `dynamic_world_plus/NAME`. Leaves: batches of physical values on the host, and the function that standardises them inside the
compiled step. Start at `pipeline`, the Grain chain; `dataset` says what the records hold, `preprocess` what is done to each tile.
"""
