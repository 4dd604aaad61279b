"""96 chips of BigEarthNet with labels from CORINE, from a network that has learnt on other land before: only its classifiers learn, that
of its features of Sentinel-2, and that of the mean backscatter around a pixel.

    python -m tfds_dwplus.prepare --tiles ../shared/real/ben_mini --name ben_mini --data_dir data --tile_size_px 120
    python -m specsar_jax.train --config configs/ben_mini_pretrained.py --workdir runs/ben_mini_pretrained

`runs/land_four_bands` is of `configs/land_four_bands.py`, which says how it is made. Eighty chips are enough to learn what CORINE calls a
field or a forest of those that a network tells apart already, and too few to learn to tell them apart: with all of its weights learning,
the network of Sentinel-2 had an overall accuracy of 75.9 and an mIoU of 33.1 in the folds of `benchmarks/chip_folds.py`, with the
classifier alone 79.5 and 38.1 (seed 0, by a driver that was not kept). Rate, class weights and what learns were chosen in those
folds, never on the test chips; BENCHMARKS.md has the table.
"""

from specsar_jax.config import Config, Data, Loss, Optimizer, Predict, Train, model_preset


def get_config() -> Config:
    """The recipe for few labelled chips."""
    return Config(
        data=Data(
            name="ben_mini",
            s2_bands=("B2", "B3", "B4", "B8"),
            scaling="log",
            train_split="train[:-5%]",
            validation_split="train[-5%:]",
            crop_px=64,
            brightness=0.2,
            band_jitter=0.07,
        ),
        model=model_preset("dynamic_world_sar"),
        loss=Loss(name="cross_entropy", alpha_power=0.1),
        optimizer=Optimizer(learning_rate=1e-1, warmup_steps=20),
        train=Train(
            steps=150,
            batch_size=16,
            eval_every=0,
            ema_decay=0.99,
            finetune="runs/land_four_bands",
            trainable=("classify", "sar"),
        ),
        predict=Predict(average_turns=True),
    )
