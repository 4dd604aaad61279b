"""What the networks share: pixels in their units are checked and scaled, and logits become probabilities."""

import json
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_SIZE_PX = 32
"""Smallest height and width of a tile."""

LOG_LOW_HIGH = {
    "B2": (1.7417268007636313, 2.023298706048351),
    "B3": (1.7261204997060209, 2.038905204308012),
    "B4": (1.6798346251414997, 2.179592821212937),
    "B5": (1.7734969472909623, 2.2890068333026603),
    "B6": (2.289154079164943, 2.6171674549378166),
    "B7": (2.382939712192371, 2.773418590375327),
    "B8": (2.3828939530384052, 2.7578332604178284),
    "B11": (2.1952484264967844, 2.789092484314204),
    "B12": (1.554812948247501, 2.4140534947492487),
}

LOG_NEIGHBOUR = {"B1": "B2", "B8A": "B8", "B9": "B8", "B10": "B11"}
"""Numbers of `data.scaling` 'log' by band: those of `specsar_jax.batches.preprocess`, which this folder cannot import."""


class PixelNetwork(nn.Module):
    """A network of digital numbers and decibels that the metadata of a bundle describes. Its kinds have `scaled_logits`."""

    def __init__(self, metadata: dict[str, str]) -> None:
        super().__init__()
        self.metadata = dict(metadata)
        self.config: dict[str, Any] = json.loads(metadata["config"])
        self.temperature = float(metadata.get("temperature", 1.0))
        self.classes: tuple[str, ...] = tuple(json.loads(metadata["classes"]))
        self.class_colours: tuple[str, ...] = tuple(json.loads(metadata.get("class_colours", "[]")))
        self.sensors = {"spectral": ("s2",), "sar": ("s1",)}.get(self.config["model"]["branches"], ("s2", "s1"))
        data = self.config.get("data", {})
        # Sensors that some of its training tiles lacked: a network of both works without such a one.
        dropped = zip(("s2", "s1"), data.get("sensor_drop", ()), strict=False)
        self.may_miss = [sensor for sensor, share in dropped if share and len(self.sensors) == 2]
        self.scaling = data.get("scaling", "standard")
        if self.scaling not in ("standard", "log"):
            raise ValueError(f"its scaling is {str(self.scaling)[:40]!r}, expected 'standard' or 'log'")
        statistics = json.loads(metadata["statistics"])
        self.bands = {sensor: tuple(statistics[sensor]["bands"]) for sensor in self.sensors}
        for sensor in self.sensors:
            for name in ("mean", "std", "p1", "p99"):
                self._keep(f"{sensor}_{name}", statistics[sensor][name])
        if self.scaling == "log" and "s2" in self.sensors:
            places = [LOG_NEIGHBOUR.get(name, name) for name in self.bands["s2"]]
            if unknown := [place for place in places if place not in LOG_LOW_HIGH]:
                raise ValueError(f"scaling 'log' has no numbers for band {str(unknown[0])[:40]!r}")
            low, high = zip(*(LOG_LOW_HIGH[place] for place in places), strict=True)
            self._keep("s2_low", low)
            self._keep("s2_high", high)

    def _keep(self, name: str, numbers: Any) -> None:
        """Keeps a number for each band with the network, but not with its weights."""
        by_band = torch.tensor(numbers, dtype=torch.float32, device="cpu")[:, None, None]
        self.register_buffer(name, by_band, persistent=False)

    def forward(self, s2: Tensor | None = None, s1: Tensor | None = None) -> Tensor:
        """Logits.

        Args:
            s2: digital numbers (reflectance x 10000), 0 without data; any type, [batch, band, height, width].
            s1: sigma0 in dB, NaN without data; likewise. A sensor that the network does not read, or may miss (`may_miss`), may be None.

        Returns:
            float32 [batch, class, height, width].

        Raises:
            ValueError: a sensor in use is missing, has other bands or another size, or a side is under 32 pixels.
        """
        given = {"s2": s2, "s1": s1}
        for sensor, other, nodata in (("s2", s1, 0.0), ("s1", s2, float("nan"))):
            if given[sensor] is None and other is not None and sensor in self.may_miss:
                shape = (other.shape[0], len(self.bands[sensor]), *other.shape[2:])
                given[sensor] = torch.full(shape, nodata, device=other.device)
        maps = [self._scaled(sensor, given[sensor]) for sensor in self.sensors]
        if any(m.shape[0] != maps[0].shape[0] or m.shape[2:] != maps[0].shape[2:] for m in maps):
            shapes = " and ".join(f"{sensor} has shape {tuple(given[sensor].shape)}" for sensor in self.sensors)
            raise ValueError(f"{shapes}: batch and size must agree")
        return self.scaled_logits(maps)

    def scaled_logits(self, maps: list[Tensor]) -> Tensor:
        """Logits [batch, class, height, width] of the scaled maps [batch, band, height, width] of each sensor, float32."""
        raise NotImplementedError

    def probabilities(self, s2: Tensor | None = None, s1: Tensor | None = None) -> Tensor:
        """Calibrated probabilities [batch, class, height, width]; arguments as for `forward`."""
        return (self(s2, s1) / self.temperature).softmax(dim=1)

    def _scaled(self, sensor: str, values: Tensor | None) -> Tensor:
        """As `specsar_jax.batches.preprocess.standardise`: float32 of the same shape."""
        shape, count = (None if values is None else tuple(values.shape)), len(self.bands[sensor])
        if shape is None or len(shape) != 4 or shape[1] != count or min(shape[2:]) < SMALLEST_SIZE_PX:
            raise ValueError(
                f"{sensor} has shape {shape}, expected [batch, {count}, height, width] "
                f"with height and width of at least {SMALLEST_SIZE_PX} pixels"
            )
        values = values.to(torch.float32)
        if sensor in self.may_miss:  # where one band has no data, none counts
            seen = (values != 0 if sensor == "s2" else values.isfinite()).all(dim=1, keepdim=True)
            values = torch.where(seen, values, 0.0 if sensor == "s2" else float("nan"))
        if sensor == "s2" and self.scaling == "log":
            exponent = 5.0 * ((0.005 * values).log1p() - self.s2_low) / self.s2_high - 1.0
            return exponent.sigmoid()  # e / (1 + e) of its exponential e
        mean, std, low, high = (getattr(self, f"{sensor}_{name}") for name in ("mean", "std", "p1", "p99"))
        valid = values != 0 if sensor == "s2" else values.isfinite()
        standardised = (torch.minimum(torch.maximum(values, low), high) - mean) / std.clamp(min=1e-6)
        return torch.where(valid, standardised, 0.0)
