"""Simulated tiles, a small network, minutes on a laptop.

python -m specsar_jax.train --config configs/quickstart.py
"""

from specsar_jax.config import Config, Train, model_preset


def get_config() -> Config:
    """The quickstart."""
    return Config(model=model_preset("tiny"), train=Train(steps=600, ema_decay=0.99))
