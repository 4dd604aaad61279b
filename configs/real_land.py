"""A small network of Sentinel-2 for real land, taught by Dynamic World's: what a region's own network is made with.

    python -m specsar_jax.import_dynamic_world --saved_model dynamicworld/model/forward --output dynamic_world.safetensors
    python -m tfds_dwplus.label --network dynamic_world.safetensors --tiles tiles/
    python -m tfds_dwplus.prepare --tiles tiles/ --name land --data_dir data --tile_size_px 64 --cut
    python -m specsar_jax.train --config configs/real_land.py --workdir runs/land

The teacher labels each crop as it is after augmentation, so light, haze and mosaics of two tiles teach how its answers change, and the
labels of the tiles only score. The scaling is Dynamic World's own, the same for all land: that of a data set does not travel. Targets
are the teacher's nine probabilities to the fourth power, as it is unsure by training (it had smoothed labels).

Rate, class weights and amounts were chosen by leaving whole sources of land out, on one seed, and on seven scenes elsewhere, which are
therefore no test of it. What it reaches, source by source, `benchmarks/real_land.py` measures; BENCHMARKS.md has the table as far as it
has run, by which plain labels do better on fields and towns, and the teacher on other sources and scenes elsewhere.
"""

from specsar_jax.config import Config, Data, Loss, Optimizer, Train, model_preset


def get_config() -> Config:
    """The recipe for other places, seasons and levels than those of the tiles."""
    return Config(
        data=Data(
            name="land",
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
        model=model_preset("tiny", branches="spectral"),
        loss=Loss(name="soft", sharpness=4.0, alpha_power=0.5),
        optimizer=Optimizer(learning_rate=3e-3, warmup_steps=50),
        train=Train(
            steps=3000,
            batch_size=16,
            ema_decay=0.99,
            eval_every=0,
            log_every=100,
            teacher="dynamic_world.safetensors",
        ),
    )
