"""What is made before the maps: the mirrored scene, in both forms, and a network with drawn weights."""

from pathlib import Path
from typing import Any

import numpy as np
from networks.measured import layers_one_by_one

from mappings.jobs import CROP_PX, OVERLAP, Job, cutting

BANDS_20M = ("B5", "B6", "B7", "B11", "B12")
S2_DATE, S1_DATE = "s2_l1c/20200604T054639_20200604T054831_T43RCP", "s1/S1A_IW_GRDH_1SDV_20200607T010800*"
CORNER = 299_520, 3_498_240
"""Easting and northing in UTM zone 43N: where windows of both sizes begin, so that PyTorch's tools cut at the same places."""
S1_AWAY_PX = 8.3
"""How far outside the scene the grid of Sentinel-1 begins, in pixels."""


def write_scene(job: Job) -> dict[str, Any]:
    """The mirrored scene, in both forms."""
    import rasterio
    from rasterio.crs import CRS

    from tfds_dwplus import bands

    real = Path(job.real) / "scene_pakistan"
    s2 = {name: real / S2_DATE / f"{name}.tif" for name in bands.S2_BANDS}
    (folder,) = real.glob(S1_DATE)
    s1 = {name: folder / f"{name}.tif" for name in bands.S1_BANDS}
    common = {"driver": "GTiff", "crs": CRS.from_epsg(32643), "tiled": True, "blockxsize": 512, "blockysize": 512}
    common |= {"compress": "deflate", "interleave": "band", "bigtiff": "if_safer", "num_threads": "all_cpus"}

    def mirrored(path: Path, size: int, repeat: int = 1) -> np.ndarray:
        with rasterio.open(path) as raster:
            pixels = raster.read(1)
        rows, columns = (np.pad(np.arange(n), (0, max(size - n, 0)), mode="symmetric")[:size] for n in pixels.shape)
        return pixels[np.ix_(rows.repeat(repeat), columns.repeat(repeat))]

    def create(path: Path, count: int, size: int, pixel_m: float, away_px: float = 0) -> Any:
        kind = {"dtype": "uint16", "predictor": 2} if "s2" in str(path.relative_to(job.folder)) else {}
        kind = kind or {"dtype": "float32", "predictor": 3, "nodata": float("nan")}
        x, y = CORNER[0] - away_px * pixel_m, CORNER[1] + away_px * pixel_m
        transform = rasterio.Affine(pixel_m, 0, x, 0, -pixel_m, y)
        path.parent.mkdir(parents=True, exist_ok=True)
        return rasterio.open(path, "w", count=count, width=size, height=size, transform=transform, **kind, **common)

    for sensor, paths in (("s2", s2), ("s1", s1)):
        with create(job.scene / f"{sensor}.tif", len(paths), job.size, 10) as target:
            target.descriptions = tuple(paths)
            for index, (name, path) in enumerate(paths.items(), start=1):
                coarse = 2 if name in BANDS_20M else 1
                target.write(mirrored(path, job.size // coarse, coarse), index)
    for name, path in s2.items():
        coarse = 2 if name in BANDS_20M else 1
        with create(job.scene / "s2" / f"{name}.tif", 1, job.size // coarse, 10 * coarse) as target:
            target.write(mirrored(path, job.size // coarse), 1)
    for name, path in s1.items():
        with create(job.scene / "s1" / f"{name}.tif", 1, job.size + 2 * int(S1_AWAY_PX), 10, S1_AWAY_PX) as target:
            target.write(mirrored(path, job.size + 2 * int(S1_AWAY_PX)), 1)
    return {}


def write_network(job: Job) -> dict[str, Any]:
    """A bundle with drawn weights, and the work that the network has with a window, GFLOP by XLA's count."""
    import jax
    import rasterio

    from specsar_jax import config as configs
    from specsar_jax.batches import preprocess
    from specsar_jax.network import model, resizing
    from specsar_jax.trained.bundle import write_bundle
    from specsar_jax.trained.trained_network import Trained
    from tfds_dwplus import bands

    window, *_ = cutting(job)
    with rasterio.open(job.scene / "s2.tif") as s2, rasterio.open(job.scene / "s1.tif") as s1:
        pixels = [np.moveaxis(of.read(), 0, -1)[None, :512, :512] for of in (s2, s1)]

    def statistics(names: tuple[str, ...], values: np.ndarray, unit: str) -> preprocess.SensorStatistics:
        flat = values.reshape(-1, len(names)).astype(np.float64)
        low, high = np.percentile(flat, (1, 99), axis=0)
        of = (tuple(map(float, numbers)) for numbers in (flat.mean(0), flat.std(0), low, high))
        return preprocess.SensorStatistics(names, *of, unit, (len(flat),) * len(names))

    known = preprocess.Statistics(
        statistics(bands.S2_BANDS, pixels[0], bands.S2_UNIT),
        statistics(bands.S1_BANDS, pixels[1], bands.S1_UNIT),
        (1,) * 9,
    )
    config = configs.Config(model=configs.model_preset(job.preset))
    config = configs.override(config, [f"data.crop_px={CROP_PX[job.preset]}", f"predict.overlap={OVERLAP}"])
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.02 * rng.standard_normal(leaf.shape, np.float32),
        model.init_params(config.model, jax.random.key(0)),
    )

    def logits(variables: model.Variables, *pixels: jax.Array) -> jax.Array:
        return model.apply(variables, *preprocess.standardise(*pixels, known), config=config.model)

    seen = jax.jit(logits)(variables, *(of[:, :window, :window] for of in pixels))
    mean, std = (np.asarray(of) for of in (seen.mean(axis=(0, 1, 2)), seen.std(axis=(0, 1, 2))))
    decoder = variables["params"]["decoder"]
    decoder["classify_bias"] = (decoder["classify_bias"] - mean) / std
    decoder["classify_kernel"] = decoder["classify_kernel"] / std
    write_bundle(Trained(config, known, jax.tree.map(jax.numpy.asarray, variables), 0), job.bundle)
    jax.clear_caches()
    resizing._join_rows = resizing._join_whole  # of a loop, one turn would be counted
    with layers_one_by_one():
        work = jax.jit(lambda *of: logits(*of)).lower(variables, *(of[:, :window, :window] for of in pixels))
    return {"gflop": work.cost_analysis()["flops"] / 1e9}
