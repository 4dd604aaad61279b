"""All that is written of a comparison, and where: the rasters of changes, and their tables.

Enters: two maps laid over each other, zones and evaluations if there are any, and a folder of work. Leaves: the outputs under their names,
when all of them are whole, and what the user is told.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from specsar_jax.changes import comparing, tables
from specsar_jax.changes.change_files import Raster
from specsar_jax.changes.comparing import Compared
from specsar_jax.changes.pairs import Pair
from specsar_jax.version import __version__
from specsar_jax.zones.counting import Counted, count_codes
from specsar_jax.zones.options import told_of_cover
from specsar_jax.zones.polygons import Zones
from tfds_dwplus.command_line import progress
from tfds_dwplus.files.outputs import check_output, write_together
from tfds_dwplus.files.workplaces import check_new_folder, take_place

_ENDINGS = (".csv", ".json", ".zones.csv")
"""Of the tables."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """The evaluations of two maps."""

    before: Int64[np.ndarray, "label prediction"]
    after: Int64[np.ndarray, "label prediction"]
    one_sample: bool
    """Whether both are one evaluation."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where outputs go."""

    output: Path
    """`change.tif`, with tables beside it; or a new folder, whose name has no ending."""
    pair: Pair
    zones: Path | None

    @property
    def folder(self) -> bool:
        """Whether all goes to a new folder."""
        return not self.output.suffix

    @property
    def target(self) -> Path:
        """What takes its name at the end."""
        return self.output if self.folder else self.output.resolve()

    @property
    def tables(self) -> dict[str, str]:
        """Names of the tables by their ending."""
        stem = "change" if self.folder else self.target.stem
        return {ending: f"{stem}{ending}" for ending in _ENDINGS[: 3 if self.zones else 2]}

    def check(self, read: Collection[Path]) -> None:
        """Checks that everything can be written there.

        Raises:
            ValueError: a raster is asked for and there are several; a folder is there already; or a file cannot be written, or is one that
                is `read`.
        """
        if self.folder:
            check_new_folder(self.output, "--output")
            return
        if len(self.pair.parts) > 1:
            raise ValueError(
                f"{self.pair.before.path} has {len(self.pair.parts)} rasters, of UTM zones of their own, --output {self.output} is one; give "
                "a folder, whose name has no ending"
            )
        for place in (self.output, *map(self.target.with_name, self.tables.values())):
            check_output(place, "--output")
            if place.resolve() in read:
                raise ValueError(f"{place} is read, and --output {self.output} would write it; give another name")


def write(
    pair: Pair, zones: Zones | None, scored: Scored | None, notes: list[str], work: Path, places: Places
) -> tuple[str, list[str]]:
    """Compares two maps and gives what is finished its name.

    Args:
        pair: the maps.
        zones: in which changes are counted too.
        scored: evaluations of both maps, by which areas of all ground are estimated.
        notes: what is known that a reader of the tables should know.
        work: an empty folder on the disk of the outputs.
        places: where they go.

    Returns:
        The areas as text, and further lines that the user should read.

    Raises:
        ValueError: no pixel has a class in both maps, no zone has a part in them, or as `Pair.opened`.
        OSError: an output cannot be written.
    """
    rasters, sums, by_zone = [], [], None
    pixels = sum(part.grid.height * part.grid.width for part in pair.parts)
    with progress(total=pixels * (2 if zones else 1), desc="comparing", unit="px", unit_scale=True) as bar:
        if zones:  # first, as zones that lie elsewhere are noticed at once
            by_zone = zones.names, count_codes(pair.codes, zones, bar.update)[0]
        for number, part in enumerate(pair.parts):
            rasters.append(Raster(work / f"raster_{number}", part.grid, pair.classes, _tags(pair)))
            with rasters[-1].written() as codes:
                sums.append(comparing.compare(pair, part, codes, bar.update))
    compared = comparing.added(sums)
    if not compared.total:
        raise ValueError(
            f"no pixel has a class in both {pair.before.path} and {pair.after.path}; give two maps of one place"
        )
    estimated = None
    if scored:
        from specsar_jax.changes import estimating  # which brings JAX

        estimated = estimating.estimates(compared.mapped, scored.before, scored.after, one_sample=scored.one_sample)
    lines = _lines(pair, compared, by_zone, estimated, places)
    texts = [
        tables.change_csv(compared, pair.classes, estimated, unsure=pair.sure is not None),
        tables.change_json(compared, pair.classes, by_zone, estimated, _facts(pair, [*notes, *lines])),
    ]
    if by_zone:
        texts.append(tables.zones_csv(*by_zone, pair.classes, unsure=pair.sure is not None))
    _publish(pair, rasters, texts, work, places)
    return tables.told(compared, pair.classes, estimated, pair.sure.least if pair.sure else None), lines


def _lines(
    pair: Pair,
    compared: Compared,
    by_zone: tuple[tuple[str, ...], Counted] | None,
    estimated: dict[str, Any] | None,
    places: Places,
) -> list[str]:
    lines = told_of_cover(by_zone[1], places.zones) if by_zone else []
    if compared.before_alone or compared.after_alone:
        lines.append(
            f"{compared.before_alone:,.1f} ha have a class in {pair.before.path} alone and {compared.after_alone:,.1f} ha in "
            f"{pair.after.path} alone: they are not compared"
        )
    if compared.unsure.any() and compared.told.sum() == np.trace(compared.told):
        lines.append(
            f"no change is as sure as --confidence {pair.sure.least:g}: a product of two probabilities is seldom large; give a lower one"
        )
    if estimated and estimated["unsampled_share"] > 0:
        lines.append(
            f"{100 * estimated['unsampled_share']:.3g} % of the compared area is not in the estimates: fewer than two labelled pixels are "
            "mapped as one of its classes"
        )
    if estimated and by_zone:
        lines.append("the zones are as mapped: the evaluations do not say where their labelled pixels lie")
    return lines


def _publish(pair: Pair, rasters: list[Raster], texts: list[str], work: Path, places: Places) -> None:
    """Gives rasters and tables their names; the rasters of several UTM zones have one legend."""
    folder = work / places.target.name if places.folder else places.target.parent
    if places.folder:
        folder.mkdir()
    shown = set().union(*(raster.found for raster in rasters))
    for part, raster in zip(pair.parts, rasters, strict=True):
        zone = f"_{part.utm_zone}" if part.utm_zone else ""
        raster.publish(folder / f"change{zone}.tif" if places.folder else places.target, shown)
    write_together({folder / name: text for name, text in zip(places.tables.values(), texts, strict=True)})
    if places.folder:
        take_place(folder, places.target, work)


def _tags(pair: Pair) -> dict[str, str]:
    """Tags of the rasters: what the codes mean, and of which maps they are."""
    number = len(pair.classes)
    tags = {
        "software": f"specsar_jax {__version__}",
        "codes": f"class before x {number} + class after; {number**2}: a change that is not sure enough",
        "before": pair.before.path.resolve().name,
        "after": pair.after.path.resolve().name,
    }
    for when, mapped in (("before", pair.before), ("after", pair.after)):
        if mapped.weights_sha256:
            tags[f"{when}_weights_sha256"] = mapped.weights_sha256
    return tags | ({"confidence": str(pair.sure.least)} if pair.sure else {})


def _facts(pair: Pair, notes: list[str]) -> dict[str, Any]:
    """What the tables are of."""
    facts: dict[str, Any] = {"before": str(pair.before.path), "after": str(pair.after.path)}
    if pair.sure:
        facts |= {
            "confidence": pair.sure.least,
            "probability": "of the class before in the earlier map x of the class after in the later one",
        }
    return facts | {"notes": notes}
