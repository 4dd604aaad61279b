"""Writes the files of a map: first strips in a folder beside it, then, from all strips, cloud-optimised GeoTIFFs.

    map.tif                   class ids from 0, nodata 255; colours and names, overviews
    map.tif.aux.xml           class names, which GDAL keeps beside a GeoTIFF, never inside
    map.qml                   names and colours for QGIS
    seen.tif                  if asked for, by which sensors each pixel was seen: 1 Sentinel-2, 2 Sentinel-1, 3 both, nodata 255
    map.gpkg, general.tif     if asked for, its patches as polygons, and the map with small patches joined to others, of `final_files`
    .map.tif.unfinished/      settings.json, and for each finished strip a small GeoTIFF per raster

The file of a strip appears only when it is complete. So a map that was interrupted at any point continues with the missing strips,
and several processes of one user may share the work. If the map is to be written to a link, all this is where the link leads to.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float32, UInt8

from specsar_jax.maps import final_files
from specsar_jax.patches.asked import NOTHING, Asked
from tfds_dwplus import bands
from tfds_dwplus.files import buckets
from tfds_dwplus.files.outputs import check_output, hidden_name, is_locked, locked, write_json, write_whole
from tfds_dwplus.files.raster_files import geotiff
from tfds_dwplus.files.strangers import read_object
from tfds_dwplus.files.workplaces import beside, private_folder
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.inputs import fingerprints

ANYWHERE = rasterio.Affine(10, 0, 0, 0, -10, 0)
"""Transform of a strip's file; it means nothing, but rasterio warns if there is none."""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Paths of the rasters of a map."""

    map: Path
    probabilities: Path | None = None
    """Raster of the class probabilities, one band per class; None to write none."""
    confidence: Path | None = None
    """Raster of the probability of the mapped class; None to write none."""
    sensors_seen: Path | None = None
    """Raster of the sensors that each pixel was seen by; None to write none."""
    asked: Asked = NOTHING
    """What is made of the map when it is finished."""

    @property
    def rasters(self) -> dict[str, Path]:
        """Returns the paths of the rasters that the network gives, by name."""
        named = {name: getattr(self, name) for name in ("map", "probabilities", "confidence", "sensors_seen")}
        return {name: path for name, path in named.items() if path}

    @property
    def paths(self) -> dict[str, Path]:
        """Returns the paths of all files to write, by name."""
        return self.rasters | self.asked.paths

    @property
    def of_shares(self) -> bool:
        """Returns whether a raster of probabilities or confidences is to be written."""
        return bool(self.probabilities or self.confidence)

    def check(self) -> None:
        """Raises a ValueError if no file can be written to a path, such as a folder, or none of what is asked."""
        self.asked.check()
        for name, path in self.paths.items():
            check_output(path, "--output" if name == "map" else f"--{name}")


class UnfinishedMap:
    """The finished strips of a map, in a folder beside it."""

    def __init__(
        self,
        grid: Grid,
        outputs: Outputs,
        classes: bands.Classes,
        tags: dict[str, str],
        tops: Sequence[int],
        settings: dict,
    ) -> None:
        """Creates the folder, or continues with the strips that are in it.

        Args:
            grid: grid of the map.
            outputs: paths of its files.
            classes: its classes, whose names and colours the files carry.
            tags: tags to write into the files.
            tops: first row of each strip; a strip spans the width of the map.
            settings: everything else that the map depends on, for JSON; must equal the settings of an unfinished map. What is under
                `inputs`, from `fingerprints.fingerprint`, is compared by what is known both then and now.

        Raises:
            ValueError: the folder holds strips of a map with other settings, or of other inputs; or it belongs to another user.
        """
        self.grid, self.outputs, self.classes, self.tags = grid, outputs, classes, tags
        self.tops = (*tops, grid.height)
        self.folder = beside(outputs.map.resolve())
        self._held: set[str] = set()
        wanted = settings | {"tops": self.tops, "rasters": sorted(outputs.paths), "tags": tags}
        if outputs.asked.minimum_area_ha is not None:
            wanted["minimum_area_ha"] = outputs.asked.minimum_area_ha
        if classes != bands.DYNAMIC_WORLD:  # else as in the folders of before
            wanted["classes"] = dataclasses.asdict(classes)
        self._take(json.loads(json.dumps(wanted)))

    def _take(self, settings: dict) -> None:
        """Creates the folder, or checks that what it holds is of these settings."""
        private_folder(self.folder)
        try:
            with self.held("settings", wait=True):
                path = self.folder / "settings.json"
                differ = _differ(path, settings)
                if differ and (any(self.folder.glob("map_*.tif")) or self._at_work()):
                    raise ValueError(f"{self.folder} holds a map that was begun with {differ}, or remove the folder")
                if differ:
                    write_json(path, settings)
        except FileNotFoundError:  # another process has just removed the folder
            self._take(settings)
        except OSError:
            with contextlib.suppress(OSError):
                (self.folder / "settings.lock").unlink()
                self.folder.rmdir()
            raise

    @property
    def missing(self) -> list[int]:
        """Returns the numbers of the strips that are not written yet."""
        return [strip for strip in range(len(self.tops) - 1) if not self._path("map", strip).exists()]

    def write(
        self,
        strip: int,
        class_id: UInt8[np.ndarray, "rows columns"],
        share: UInt8[np.ndarray, "rows columns class"] | None = None,
        seen: UInt8[np.ndarray, "rows columns"] | None = None,
    ) -> None:
        """Writes a strip: class ids from `class_ids`, probabilities from `scaled` if `Outputs.of_shares`, and the sensors of
        `bands.seen_pixels` if these are wanted.

        Raises:
            OSError: the disk is full, or cannot be written for another reason.
        """
        rasters = {"map": class_id[None]}
        if share is not None:
            confidence = np.where(class_id == bands.IGNORE, bands.IGNORE, share.max(axis=-1))
            rasters |= {"probabilities": np.moveaxis(share, -1, 0), "confidence": confidence[None]}
        if seen is not None:
            rasters["sensors_seen"] = np.where(seen, seen, np.uint8(bands.IGNORE))[None]
        for name in reversed(self.outputs.rasters):  # the map last: it marks the strip as finished
            write_whole(self._path(name, strip), self._geotiff(rasters[name]))

    def keep(self) -> str:
        """Says which strips are kept when the work cannot go on. If there are none, the folder is removed and "" is returned."""
        strips = len(self.tops) - 1
        if done := strips - len(self.missing):
            return f"{done} of {strips} strips of the map are kept: the same command goes on from there"
        if not self._at_work():
            self.remove()
        return ""

    @property
    def empty(self) -> bool:
        """Returns whether none of the finished strips has a pixel with a class."""
        return not any(self._has_pixels(path) for path in self.folder.glob("map_*.tif"))

    def finish(self) -> bool:
        """Joins the strips into the final cloud-optimised files, with overviews.

        Returns:
            True if this process wrote the files; False if strips are missing, or another process has written the files.

        Raises:
            ValueError: the folder is gone, and there is no map.
            OSError: the disk is full, or cannot be written for another reason; the strips are kept.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.held("finish", wait=True))
            except FileNotFoundError:
                if not self.outputs.map.exists():
                    raise ValueError(f"{self.folder} was removed before the map was whole; map again") from None
                return False
            if self.missing:
                buckets.refresh(self.folder)  # strips of other machines
            if self.missing:
                return False
            mosaics = {name: self._mosaic(name) for name in self.outputs.rasters}
            work = final_files.Work(self.folder, self.grid, self.classes, self.tags)
            final_files.write_asked(work, mosaics["map"], self.outputs.asked)
            for name, path in reversed(self.outputs.rasters.items()):
                final_files.write_raster(work, name, mosaics[name], path)
            self.remove()
            return True

    def remove(self) -> None:
        """Removes the folder with all strips, at once: a part of them without settings would be taken for strips of any map."""
        removed = self.folder.with_name(hidden_name(self.outputs.map.resolve().name, ".removed"))
        shutil.rmtree(removed, ignore_errors=True)  # of a process that was killed here
        try:
            self.folder.rename(removed)
        except OSError:  # somebody made a folder of that name
            removed = self.folder
        shutil.rmtree(removed, ignore_errors=True)

    @contextlib.contextmanager
    def held(self, name: str, *, wait: bool) -> Iterator[None]:
        """Holds a lock on a part of the work; it is released even if the process is killed.

        Raises:
            ValueError: another process holds the lock, and `wait` is False.
            FileNotFoundError: another process has removed the folder.
        """
        with locked(self.folder / f"{name}.lock", self.outputs.map, wait=wait):
            self._held.add(name)
            try:
                yield
            finally:
                self._held.discard(name)

    def _at_work(self) -> bool:
        """Returns whether another process, or another part of this one, works in the folder."""
        locks = buckets.lock_path(self.folder / "any.lock").parent
        return any(is_locked(path) for path in locks.glob("*.lock") if path.stem not in self._held)

    def _path(self, name: str, strip: int) -> Path:
        return self.folder / f"{name}_{strip:05d}.tif"

    @staticmethod
    def _geotiff(values: UInt8[np.ndarray, "band rows columns"]) -> bytes:
        """Encodes a strip as a GeoTIFF, compressed little, as it is read only once."""
        profile = {"nodata": bands.IGNORE, "compress": "deflate", "zlevel": 1}
        # Blocks are no higher than the strip: they take memory while all strips are open for reading.
        profile |= {
            "tiled": True,
            "blockxsize": 512,
            "blockysize": min(-(-values.shape[1] // 16) * 16, 512),
            "transform": ANYWHERE,
        }
        has_pixels = bool((values != bands.IGNORE).any())
        return geotiff(values, tags={"has_pixels": str(has_pixels)}, **profile)

    @staticmethod
    def _has_pixels(path: Path) -> bool:
        with rasterio.open(path, driver="GTiff") as raster:
            return raster.tags()["has_pixels"] == "True"

    def _mosaic(self, name: str) -> Path:
        """Writes a virtual raster of all strips."""
        strips = [(self._path(name, strip).name, top) for strip, top in enumerate(self.tops[:-1])]
        mosaic, heights = self.folder / f"{name}.vrt", np.diff(self.tops).tolist()
        write_whole(mosaic, final_files.mosaic(name, self.grid, self.classes, self.tags, strips, heights))
        return mosaic


def write_map(
    grid: Grid,
    outputs: Outputs,
    classes: bands.Classes,
    tags: dict[str, str],
    probability: Float32[np.ndarray, "height width class"],
    seen: UInt8[np.ndarray, "height width"] | None = None,
) -> None:
    """Writes the files of a map in one go from its class probabilities, which are NaN where there is no data, and the sensors that each
    pixel was seen by, `bands.seen_pixels`, if `outputs` want them.
    """
    valid = ~np.isnan(probability[..., 0])
    share = scaled(probability, valid) if outputs.of_shares else None
    write_classes(
        grid, outputs, classes, tags, class_ids(probability, valid), share, seen if outputs.sensors_seen else None
    )


def write_classes(
    grid: Grid,
    outputs: Outputs,
    classes: bands.Classes,
    tags: dict[str, str],
    class_id: UInt8[np.ndarray, "height width"],
    share: UInt8[np.ndarray, "height width class"] | None = None,
    seen: UInt8[np.ndarray, "height width"] | None = None,
) -> None:
    """Writes the files of a map in one go from its classes; `share` and `seen` as `UnfinishedMap.write` takes them."""
    outputs.check()
    unfinished = UnfinishedMap(grid, outputs, classes, tags, [0], {})
    try:
        unfinished.write(0, class_id, share, seen)
        unfinished.finish()
    finally:
        unfinished.remove()


def class_ids(probability: Float32[np.ndarray, "*shape class"], valid: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    """Returns the most probable class of each pixel; 255 where a pixel is not valid."""
    return np.where(valid, probability.argmax(axis=-1), bands.IGNORE).astype(np.uint8)


def scaled(probability: Float32[np.ndarray, "*shape class"], valid: np.ndarray) -> UInt8[np.ndarray, "*shape class"]:
    """Returns the probabilities as uint8 in steps of `final_files.SCALE`; 255 where a pixel is not valid."""
    return np.where(valid[..., None], np.rint(np.nan_to_num(probability) / final_files.SCALE), bands.IGNORE).astype(
        np.uint8
    )


def _differ(path: Path, settings: dict) -> str:
    """Says in which settings a file differs, and what to do about it; "" if it does not.

    Of inputs, those files are named that changed.
    """
    if not path.exists():
        return f"settings that nobody knows, for it has lost its {path.name}; give another --output"
    try:
        found = read_object(path, finite=False, unpaired=True)
    except ValueError:
        return f"settings that nobody knows, for its {path.name} is damaged; give another --output"
    names = sorted(found.keys() | settings.keys())
    others = [name for name in names if name != "inputs" and found.get(name) != settings.get(name)]
    files = fingerprints.changed(found.get("inputs", []), settings.get("inputs", []))
    if files is None:
        others.insert(0, "inputs")
    if others:
        return f"other settings ({', '.join(others)}); finish it with those"
    if files:
        more = f" and {len(files) - 3} more files" if files[3:] else ""
        return f"other inputs: {', '.join(files[:3])}{more} changed since; give another --output"
    return ""
