"""The paper's network and recipe on Dynamic World+. NOT reproduced here: no public data.

    python -m tfds_dwplus.prepare --tiles TILES --name full --data_dir data
    python -m specsar_jax.train --config configs/specsar_former.py --workdir runs/specsar_former

The paper reports, on its 299 test patches: mIoU 59.58 %, overall accuracy 79.48 %, macro F1 71.68 %, after 200 epochs of
16,893 tiles with AdamW, learning rate 5e-4, cosine schedule, batch 4, random flips and rotations, alpha-balanced focal
loss (Yu et al., arXiv 2410.03962). What the paper leaves open (weight decay, warm-up, gamma, alpha) is our choice.

Cost: 844,650 steps of four tiles of 510 x 510, or 520 PFLOP. A step takes 3.5 s a tile on two cores (BENCHMARKS.md), so the
whole would take 137 days there; on an accelerator it has not been timed. `--config.model.compute_dtype=bfloat16` and
`--config.model.rematerialise=true` make it cheaper and smaller there.
"""

from specsar_jax.config import Config, Data, Loss, Optimizer, Train, model_preset

TILES, BATCH = 16_893, 4


def get_config() -> Config:
    """The published recipe."""
    return Config(
        data=Data(name="full", crop_px=0),
        model=model_preset("specsar_former", loop_blocks_from=3),  # on one TPU all stages are loops: less to compile
        loss=Loss(name="focal", gamma=2.0, alpha_power=0.5),
        optimizer=Optimizer(learning_rate=5e-4, warmup_steps=1500),
        train=Train(epochs=200, batch_size=BATCH, log_every=50, eval_every=TILES // BATCH, save_every_minutes=10.0),
    )
