"""Dynamic World's network for whoever has four bands of Sentinel-2: its first layer learns to do without the other five.

    python -m specsar_jax.import_dynamic_world --saved_model dynamicworld/model/forward --output dynamic_world.safetensors
    python -m tfds_dwplus.label --network dynamic_world.safetensors --tiles tiles/
    python -m tfds_dwplus.prepare --tiles tiles/ --name land --data_dir data --tile_size_px 64 --cut
    python -m specsar_jax.train --config configs/land_four_bands.py --workdir runs/land_four_bands

The tiles have nine bands. The teacher, which is the same network, reads them all; the student reads B2, B3, B4 and B8. The layers after
the first have learnt from the whole world, and stay as they are. Augmentation, scaling and loss are those of `real_land`.

`ben_mini_pretrained` goes on from the run, and what learns was chosen by it, in folds of its train chips and by a logistic regression
on the logits, a driver that was not kept. Overall accuracy and mIoU: the first layer, 200 steps, 79.3 and 37.7; all layers, 200 steps,
79.1 and 38.2, 600 steps, 78.3 and 37.4; in another season 74.6 and 33.3, 74.5 and 32.9, 73.6 and 32.4.
"""

from specsar_jax.config import Config, Data, Loss, Optimizer, Train, model_preset

PUBLISHED = "dynamic_world.safetensors"


def get_config() -> Config:
    """The recipe for a network of four bands."""
    return Config(
        data=Data(
            name="land",
            s2_bands=("B2", "B3", "B4", "B8"),
            scaling="log",
            crop_px=64,
            brightness=0.2,
            band_jitter=0.07,
            tilt=0.15,
            contrast=0.15,
            haze=500.0,
            unchanged_light=0.3,
            mosaic=0.35,
        ),
        model=model_preset("dynamic_world"),
        loss=Loss(name="soft", sharpness=4.0, alpha_power=0.5),
        optimizer=Optimizer(learning_rate=3e-3, warmup_steps=20),
        train=Train(
            steps=200,
            batch_size=8,
            ema_decay=0.99,
            eval_every=0,
            finetune=PUBLISHED,
            teacher=PUBLISHED,
            trainable=("stem",),
        ),
    )
