"""Trained networks: their definition, their files, and loading them.

Enters: the workdir of a run, an exported bundle, or an address on a model hub. Leaves: a `Trained` network with weights, config,
statistics and temperature, which is all that evaluation, maps and exports need. Start at `loading`.
"""
