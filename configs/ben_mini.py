"""96 chips of BigEarthNet with labels from CORINE: real pixels, few and noisy labels, minutes on two cores.

    python -m tfds_dwplus.prepare --tiles ../shared/real/ben_mini --name ben_mini --data_dir data --tile_size_px 120
    python -m specsar_jax.train --config configs/ben_mini.py

Eighty chips are learnt by heart in a few hundred steps, and what is learnt does not travel to another place and season. The recipe
was chosen in four folds of the train chips, grouped by look (k-means of each chip's median optical spectrum), never on the test
chips; beside it a random forest on 9 x 9 means, of 100 trees on 20,000 pixels, in the same folds. Overall accuracy and mIoU, the
confusion pooled over the folds, one seed each, where the recipe has a small network and steps of 32 crops of 32 pixels:

    random forest                                                           0.759  0.344
    learning rate 5e-4, dropout 0.3 and drop path 0.2, 400 steps            0.769  0.316
    2e-3, dropout 0.1 and no drop path, 400 steps                           0.780  0.369
    the same, 800 steps                                                     0.760  0.367
    the same, and now and then only one sensor in a tile (`sensor_drop`)    0.786  0.349
    the same, alpha_power 0.5 in place of 0.4                               0.771  0.332
    the same, alpha_power 0.6, which is this recipe                         0.775  0.366

These rows are of a driver that was not kept, so they say what was looked at and no more. `benchmarks/chip_folds.py`, which is kept,
gives in folds made the same way an overall accuracy of 0.767 and an mIoU of 0.355 for this recipe, 0.749 and 0.341 for the forest
(200 trees, 60,000 pixels).

The network was too small for the regularisation that it had. One run to the next the class built has an IoU of 0.01 to 0.33, so
differences of a point or two are chance: the last rows and the third are a tie, and the dropped sensors were taken for their
likelihood (0.68 to 0.75 nats a pixel with them, 0.74 to 0.78 without) and because the chips to come are of other places and seasons.
A strong gain and haze common to all bands (mIoU 0.264) and crops of 64 pixels (0.299) did harm with the regularisation of the
second row. Networks with two branches were not tried in these folds: they are four times as slow.

The checkpoint is that of the last step: eight chips, the tenth of the train chips that is held out to fit the temperature, are too
few to choose one by. What was reached on the test chips stands in the README, from `benchmarks/results.py`.
`--config.train.finetune=RUN` starts from a network of the same four bands and sizes. The ablations have a recipe of their own,
`ben_mini_branches`.
"""

from specsar_jax.config import Config, Data, Loss, Optimizer, Predict, Train, model_preset


def get_config() -> Config:
    """The recipe for chips of other places and seasons."""
    return Config(
        data=Data(
            name="ben_mini",
            train_split="train[:-10%]",
            validation_split="train[-10%:]",
            crop_px=32,
            zoom=1.5,
            band_jitter=0.1,
            speckle_looks=4.0,
            sensor_drop=(0.3, 0.1),
        ),
        model=model_preset(
            "early_fusion",
            widths=(16, 32, 48, 64),
            blocks=(1, 1, 2, 1),
            heads=(1, 1, 1, 1),
            decoder_width=64,
            dropout=0.1,
        ),
        loss=Loss(name="cross_entropy", alpha_power=0.6),
        optimizer=Optimizer(learning_rate=2e-3, weight_decay=0.1),
        train=Train(steps=800, batch_size=32, eval_every=800, ema_decay=0.99),
        predict=Predict(average_turns=True),
    )
