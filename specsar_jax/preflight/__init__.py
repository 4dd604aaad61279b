"""Preflight: what a run will find on these devices, before anything is trained.

Enters: a config, or none. Leaves: what devices, versions and processes there are, what the run's compiled programs need of a device's
memory, and whether that fits. Nothing is written but compiled programs, into the cache, where the run finds them. Start at `command`.
"""
