"""Command: what devices there are, and whether a run of a config fits on them.

    python -m specsar_jax.devices
    python -m specsar_jax.devices --config configs/specsar_former.py --config.train.batch_size=16
    python -m specsar_jax.devices --config configs/specsar_former.py --device v5e:8

What it does stands in `specsar_jax.preflight`: it compiles the programs of a run, which this room knows nothing of.
"""

from specsar_jax.preflight.command import main
from tfds_dwplus.command_line import run

if __name__ == "__main__":
    run(main)
