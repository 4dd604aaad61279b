"""The recipe of the ablations on BigEarthNet chips: two branches, as the paper has them, where `ben_mini` has one.

    python -m specsar_jax.sweep --config configs/ben_mini_branches.py --workdir runs/ablations --ablations --seeds 0,1,2

`ben_mini` says how to prepare the chips. This was the recipe before `ben_mini` went over to one small encoder; the table of ablations
in the README is of it. Chosen in four folds of the train chips, drawn at random, never on the test chips.
"""

from specsar_jax.config import Config, Data, Loss, Optimizer, Predict, Train, model_preset


def get_config() -> Config:
    """The recipe of the ablations."""
    return Config(
        data=Data(
            name="ben_mini",
            train_split="train[:-10%]",
            validation_split="train[-10%:]",
            crop_px=32,
            zoom=1.5,
            band_jitter=0.1,
            speckle_looks=4.0,
        ),
        model=model_preset("tiny", dropout=0.3, drop_path=0.2),
        loss=Loss(name="cross_entropy", alpha_power=0.4),
        optimizer=Optimizer(weight_decay=0.1),
        train=Train(steps=450, batch_size=32, eval_every=450, ema_decay=0.99),
        predict=Predict(average_turns=True),
    )
