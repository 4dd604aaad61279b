"""Who draws the maps: `predict`, and PyTorch's tools with the same network. Each in a process of its own, which tells its times."""

import contextlib
import io
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mappings.jobs import Job, cutting


class Counted:
    """A network that counts its calls, and keeps the first batch to be timed alone."""

    def __init__(self, network: Callable[..., Any]) -> None:
        self.calls, self.seconds = 0, 0.0
        self._network, self._batch = network, ()

    def __call__(self, *batch: Any) -> Any:
        """As the network; `seconds` is the time until it returns."""
        self.calls += 1
        self._batch = self._batch or batch
        started = time.perf_counter()
        result = self._network(*batch)
        self.seconds += time.perf_counter() - started
        return result

    @property
    def windows(self) -> int:
        """That went through the network."""
        return self.calls * len(self._batch[0])

    def alone_s(self) -> float:
        """What as many calls take when nothing else runs."""
        times = []
        while len(times) < 4 or (sum(times) < 3 and len(times) < 50):
            started = time.perf_counter()
            result = self._network(*self._batch)
            getattr(result, "block_until_ready", lambda: None)()
            times.append(time.perf_counter() - started)
        return float(np.median(times[1:])) * self.calls


def memory_gb() -> float:
    """Most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e9 / 1024)


def map_by_predict(job: Job) -> dict[str, Any]:
    """By the command, with the network counted, or in its place constant shares."""
    started = time.perf_counter()
    from specsar_jax import predict
    from tfds_dwplus import bands

    counted, make_network = [], predict._make_network

    def constant(s2: np.ndarray, _: np.ndarray) -> np.ndarray:
        share = np.linspace(0.2, 0.02, len(bands.CLASSES), dtype=np.float32)
        return np.broadcast_to(share, (*s2.shape[:3], share.size))

    def make_counted(*arguments: Any) -> Any:
        from specsar_jax.maps import (
            compiled,
        )  # which `predict` has imported by now: not here, for that is a part of its work

        make = compiled.make_probabilities

        def made(*arguments: Any) -> Counted:
            counted.append(Counted(constant if job.form.endswith("_idle") else make(*arguments)))
            return counted[-1]

        compiled.make_probabilities = made
        return make_network(*arguments)

    predict._make_network = make_counted
    s2, s1 = job.inputs()
    arguments = ["--workdir", job.bundle, "--s2", *s2, "--s1", *s1, "--output", job.output]
    said = io.StringIO()
    begun, working = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        predict.main([str(argument) for argument in arguments])
    seconds, working = time.perf_counter() - begun, time.process_time() - working
    facts = {"start_s": begun - started, "s": seconds, "cpu_s": working, "memory_gb": memory_gb()}
    facts["windows"] = counted[-1].windows
    if job.form.endswith("_idle"):
        return facts
    (at_work,) = re.findall(r"at work (\d+)% of the time", said.getvalue())
    return facts | {"at_work": float(at_work) / 100, "alone": counted[-1].alone_s() / seconds}


def map_by_torch(job: Job) -> dict[str, Any]:
    """By PyTorch's tools."""
    started = time.perf_counter()
    import rasterio
    import torch
    from rasterio.windows import Window

    if job.form == "terratorch":
        from terratorch.tasks.tiled_inference import tiled_inference
    sys.path.insert(0, str(Path(__file__).parents[2] / "specsar_jax" / "exports"))
    import torch_model

    begun, working = time.perf_counter(), time.process_time()
    torch.set_num_threads(os.cpu_count() or 1)
    module = torch_model.load(job.bundle)
    network = Counted(lambda s2, s1: module.probabilities(s2, s1))
    window, step, batch = cutting(job)
    s2, s1 = (paths[0] for paths in job.inputs())
    with torch.inference_mode(), rasterio.open(s2) as s2, rasterio.open(s1) as s1:
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, "compress": "deflate", "tiled": True}
        profile |= {"width": job.size, "height": job.size, "crs": s2.crs, "transform": s2.transform}
        if job.form == "terratorch":
            scene = {name: torch.from_numpy(of.read()).float()[None] for name, of in (("s2", s2), ("s1", s1))}
            # delta, a border that is thrown away, would make it more windows than ours.
            how = {"crop": window, "stride": step, "delta": 0, "batch_size": batch, "padding": False}
            shares = tiled_inference(lambda part: network(part["s2"], part["s1"]), scene, **how)
            with rasterio.open(job.output, "w", **profile) as target:
                target.write(shares[0].argmax(dim=0).to(torch.uint8).numpy(), 1)
        else:
            places = sorted({*range(0, job.size - window, window), job.size - window})
            with rasterio.open(job.output, "w", **profile, blockxsize=window, blockysize=window) as target:
                for place in (Window(left, top, window, window) for top in places for left in places):
                    pixels = (torch.from_numpy(of.read(window=place))[None] for of in (s2, s1))
                    target.write(network(*pixels)[0].argmax(dim=0).to(torch.uint8).numpy(), 1, window=place)
        seconds, working = time.perf_counter() - begun, time.process_time() - working
        facts = {"start_s": begun - started, "s": seconds, "cpu_s": working, "memory_gb": memory_gb()}
        return facts | {
            "windows": network.windows,
            "at_work": network.seconds / seconds,
            "alone": network.alone_s() / seconds,
        }
