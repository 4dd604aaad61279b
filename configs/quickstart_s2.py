"""The quickstart with Sentinel-2 alone, to see what radar adds: `specsar_jax.report` shows the two runs side by side.

python -m specsar_jax.train --config configs/quickstart_s2.py
"""

from specsar_jax.config import Config, Train, model_preset


def get_config() -> Config:
    """The quickstart's recipe, one branch of the same total width over the Sentinel-2 bands."""
    return Config(model=model_preset("tiny", branches="spectral"), train=Train(steps=600, ema_decay=0.99))
