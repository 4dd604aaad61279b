"""Chooses the tiles that a report shows, and makes their cards: pictures, scores and facts.

Enters: runs and their data set. Leaves: cards, whose pictures are data URIs. The network is run on these tiles only, one by one.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from specsar_jax.accuracy import metrics
from specsar_jax.accuracy.tally import Tally
from specsar_jax.batches import dataset, pipeline
from specsar_jax.pages import tile_images
from specsar_jax.pages.pictures import make_classifier
from specsar_jax.pages.runs import Run
from specsar_jax.trained import loading
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.tiles import tile_pictures
from tfds_dwplus.tiles.prepared import read_split

MOST_PICTURE_PX = 384
"""Largest side of a picture of a tile; larger tiles are reduced."""

LEAST_SHARE = 0.1
"""Tiles with fewer labelled pixels than this share of the median are neither best nor worst."""


class Picture(NamedTuple):
    """A picture on the page."""

    kind: str
    """`photo`, `label`, `map`, `confidence` or `errors`."""
    title: str
    uri: str
    alt: str
    run: int | None = None
    """Number of the run whose result it shows."""


@dataclasses.dataclass(frozen=True)
class Card:
    """A tile with its pictures."""

    anchor: str
    tile_id: str
    facts: list[str]
    scores: list[dict[str, Any]]
    """For each run that scored the tile: `run`, its number, and the figures of `metrics.headline`."""
    pictures: list[Picture]


def choose_tiles(tally: Tally, scores: Float[np.ndarray, " tile"], most: int, seed: int) -> dict[str, list[int]]:
    """Returns the rows in the tally of the `worst` and `best` tiles by overall accuracy, of a random `sample` of all, and of a `typical` one.

    A tile with few labelled pixels is neither best nor worst nor typical; none is both best and worst. Typical is the tile of median accuracy;
    of two in the middle, the lower one, and of equal ones that of the lower row.
    """
    labelled = tally.confusion.sum(axis=(1, 2))
    enough = (
        np.isfinite(scores) & (labelled >= LEAST_SHARE * np.median(labelled[labelled > 0])) if labelled.any() else []
    )
    ranked = np.flatnonzero(enough)
    ranked = ranked[np.argsort(scores[ranked], kind="stable")].tolist()
    each = min(most, len(ranked) // 2)
    best = ranked[len(ranked) - each :][::-1]
    typical = ranked[(len(ranked) - 1) // 2 :][:1] if most else []
    sample = tile_pictures.sample_tiles(len(tally), most, seed)
    return {"worst": ranked[:each], "best": best, "sample": sample, "typical": typical}


def tile_cards(runs: Sequence[Run], split: str, places: list[int]) -> tuple[dict[int, Card], list[str]]:
    """Returns the cards of tiles, given by rows of the first run's tally, and the reasons why runs lack pictures."""
    first, classes, notes = runs[0], runs[0].classes, []
    pictures: dict[int, list[Picture]] = {place: [] for place in places}
    scores: dict[int, list[dict[str, Any]]] = {place: [] for place in places}
    facts: dict[int, list[str]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    side = MOST_PICTURE_PX if len(runs) <= 2 else MOST_PICTURE_PX * 2 // 3
    for index, run in enumerate(runs if places else ()):
        rows = {str(name): row for row, name in enumerate(run.tally.tile_id)}
        wanted = {place: rows.get(str(first.tally.tile_id[place])) for place in places}
        wanted = {place: row for place, row in wanted.items() if row is not None}
        for place, row in wanted.items():
            figures = metrics.headline(run.tally.confusion[row])
            scores[place].append({"run": index} | {name: float(value) for name, value in figures.items()})
        classify = None
        try:
            classify = _classifier(run)
        except ValueError as error:
            notes.append(f"{run.name}: {error}")
            if run.dataset is None:
                continue
        try:
            source = pipeline.Readable(read_split(run.dataset, split), run.config.data.corrupt_records)
            with progress(
                total=len(wanted), desc=f"pictures of {run.name}", unit="tile", leave=False, disable=None
            ) as bar:
                for place, row in wanted.items():
                    record = _record(source, row, str(run.tally.tile_id[row]))
                    if index == 0:
                        held = dataset.dataset_bands(run.dataset)
                        pictures[place], sizes[place] = _pictures_of_record(record, held, classes, side)
                        facts[place] = _facts(record)
                    if classify and place in sizes:
                        more = classify(record), classes, sizes[place], index, side
                        pictures[place] += _pictures_of_map(record, *more)
                    bar.update()
        except ValueError as error:
            notes.append(f"{run.name}: {error}")
    cards = {
        place: Card(f"tile-{place}", str(first.tally.tile_id[place]), facts[place], scores[place], pictures[place])
        for place in places
        if place in facts
    }
    return cards, notes


def abridged(card: Card, runs: int) -> Card:
    """Returns a card with its first photo, label, map and errors only: of both of two `runs`, else of the first."""
    photos = [picture for picture in card.pictures if picture.kind == "photo"]
    last = 1 if runs == 2 else 0
    others = [picture for picture in card.pictures if picture.kind in ("label", "map", "errors")]
    kept = [*photos[:1], *(picture for picture in others if (picture.run or 0) <= last)]
    return dataclasses.replace(card, pictures=kept)


def _record(source: Any, place: int, tile_id: str) -> dict[str, Any]:
    """Returns the record of a tile: it is at `place`, or later if the evaluation skipped corrupt records before it."""
    for later in range(place, len(source)):
        record = source[later]
        if record["tile_id"].decode() == tile_id:
            return record
    raise ValueError(
        f"tile {tile_id} is not where the evaluation found it; the data set was made again: evaluate again"
    )


def _classifier(run: Run) -> Callable[[dict[str, Any]], tuple[np.ndarray, np.ndarray]]:
    """Returns the classifier of the evaluated network, at the temperature of the evaluation."""
    if run.dataset is None:
        raise ValueError(run.dataset_missing)
    temperature = (run.figures.get("calibration") or {}).get("temperature", 1.0)
    return make_classifier(dataclasses.replace(_trained(run), temperature=temperature), run.dataset)


def _trained(run: Run) -> Trained:
    """Loads the network that was evaluated. Raises ValueError if its checkpoint no longer exists."""
    found = []
    for which in ("best", "latest"):
        trained = loading.load_trained(run.workdir, which)
        if trained.step == run.figures["step"]:
            return trained
        found.append(f"step {trained.step} is the {which}")
    raise ValueError(
        f"the checkpoint of step {run.figures['step']}, which was evaluated, is gone ({', '.join(found)}): evaluate again"
    )


def _facts(record: dict[str, Any]) -> list[str]:
    """Returns coordinates, date and annotator of a tile, as far as known."""
    lon, lat = float(record["lon"]), float(record["lat"])
    facts = (
        [f"{abs(lat):.3f}° {'N' if lat >= 0 else 'S'} {abs(lon):.3f}° {'E' if lon >= 0 else 'W'}"]
        if math.isfinite(lon + lat)
        else []
    )
    return facts + [text for text in (record[name].decode() for name in ("date", "annotator")) if text]


def _pictures_of_record(
    record: dict[str, Any], s2_bands: tuple[str, ...], classes: bands.Classes, side: int
) -> tuple[list[Picture], tuple[int, int]]:
    """Returns the pictures of a record without its padding, and their height and width."""
    tile_id = record["tile_id"].decode()
    panels = tile_pictures.panels(record, s2_bands, classes)
    height, width = panels.pop("label").shape[:2]
    shown = [
        Picture("photo", name, tile_images.photograph(rgb, side), f"{name}, of tile {tile_id}")
        for name, rgb in panels.items()
    ]
    label = record["label"][:height, :width]
    return [
        *shown,
        Picture(
            "label",
            "Label",
            tile_images.class_map(label, classes, side),
            f"Label of tile {tile_id}: {tile_images.shares_in_words(label, classes)}",
        ),
    ], (
        height,
        width,
    )


def _pictures_of_map(
    record: dict[str, Any],
    found: tuple[UInt8[np.ndarray, "height width"], Float[np.ndarray, "height width"]],
    classes: bands.Classes,
    size: tuple[int, int],
    run: int,
    side: int,
) -> list[Picture]:
    tile_id = record["tile_id"].decode()
    label, prediction, confidence = (x[: size[0], : size[1]] for x in (record["label"], *found))
    mapped = prediction != bands.IGNORE
    judged = mapped & (label != bands.IGNORE)
    wrong = judged & (label != prediction)
    share = (
        f"{100 * wrong.sum() / judged.sum():.1f} % of the labelled pixels wrong"
        if judged.any()
        else "no labelled pixel"
    )
    sure = f"mean {100 * confidence[mapped].mean():.0f} %" if mapped.any() else "no data"
    return [
        Picture(
            "map",
            "Map",
            tile_images.class_map(prediction, classes, side),
            f"Map of tile {tile_id}: {tile_images.shares_in_words(prediction, classes)}",
            run,
        ),
        Picture(
            "confidence",
            "Confidence",
            tile_images.confidence_map(confidence, mapped, len(classes), side),
            f"Confidence on tile {tile_id}: {sure}",
            run,
        ),
        Picture(
            "errors", "Errors", tile_images.error_map(judged, wrong, side), f"Errors on tile {tile_id}: {share}", run
        ),
    ]
