"""The quickstart with Sentinel-2 alone, to see what radar adds: `benchmarks/sensors.py` compares the two.

python -m specsar_jax.train --config configs/quickstart_s2.py
"""

from specsar_jax.config import Config, Train, model_preset


def get_config() -> Config:
    """The quickstart's recipe, one branch of the same total width over the Sentinel-2 bands."""
    return Config(model=model_preset("tiny", branches="spectral"), train=Train(steps=600, ema_decay=0.99))
