"""Four real tiles of nine bands, the full network, a few minutes on two cores: to see that all fits, not to be accurate.

    python -m tfds_dwplus.prepare --tiles ../shared/real/dwplus_mini --name dwplus_mini --data_dir data
    python -m specsar_jax.train --config configs/dwplus_mini.py

Four tiles are too few to hold one out: the validation split is the train split, so the checkpoint is the one that fits
best, and the figures of the one test tile (labels of Google's model, not of an expert) say little.
"""

from specsar_jax.config import Config, Data, Loss, Train, model_preset


def get_config() -> Config:
    """The paper's network on crops of 128 pixels."""
    return Config(
        data=Data(name="dwplus_mini", validation_split="train", crop_px=128),
        model=model_preset("specsar_former"),
        loss=Loss(name="focal", alpha_power=0.5),
        train=Train(steps=200, batch_size=4, eval_every=100, eval_batch_size=1, ema_decay=0.98),
    )
