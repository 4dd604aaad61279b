"""One map, or one thing to be made before, as it is told to a process."""

from pathlib import Path
from typing import NamedTuple

FORMS = {
    "predict": "predict, one file a sensor",
    "archive": "predict, bands as archives have them",
    "predict_idle": "the same without the network, one file a sensor",
    "archive_idle": "the same without the network, bands as archives have them",
    "terratorch": "TerraTorch tiled_inference",
    "windows": "PyTorch, window by window, no overlap",
}
PEERS = ("terratorch", "windows")
CROP_PX = {"tiny": 128, "specsar_former": 510}
"""Side of what the networks are trained on, in `configs/`: tiles of 510 x 510 are taken whole."""
OVERLAP = 0.25


class Job(NamedTuple):
    """One map, or one thing to be made before."""

    form: str
    folder: str
    size: int
    preset: str
    real: str = ""

    @property
    def scene(self) -> Path:
        """Folder of the scene's files."""
        return Path(self.folder) / f"scene_{self.size}"

    @property
    def bundle(self) -> Path:
        """The network's file."""
        return Path(self.folder) / f"{self.preset}.safetensors"

    @property
    def output(self) -> Path:
        """The map."""
        return Path(self.folder) / f"{self.preset}_{self.size}_{self.form}.tif"

    def inputs(self) -> tuple[list[Path], list[Path]]:
        """Files of Sentinel-2 and of Sentinel-1."""
        if self.form.startswith("archive"):
            return sorted((self.scene / "s2").glob("*.tif")), sorted((self.scene / "s1").glob("*.tif"))
        return [self.scene / "s2.tif"], [self.scene / "s1.tif"]


def cutting(job: Job) -> tuple[int, int, int]:
    """Side and step of the windows of `predict`, and how many go through the network together."""
    window = -(-CROP_PX[job.preset] // 32) * 32
    return window, int(window * (1 - OVERLAP)) // 32 * 32, max(510 // window, 1)
