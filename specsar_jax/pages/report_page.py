"""Renders the report: charts, tables and pictures of runs in one self-contained HTML page, from the template `report.html`."""

import base64
import hashlib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jinja2
import numpy as np

from specsar_jax import config as configs
from specsar_jax.accuracy import intervals, metrics
from specsar_jax.config import Config
from specsar_jax.network import model
from specsar_jax.pages import charts, palettes, tile_images
from specsar_jax.pages.place_maps import map_of_places
from specsar_jax.pages.runs import Run, not_of_the_best, of_same_data
from specsar_jax.pages.templates import template
from specsar_jax.pages.tile_cards import abridged, choose_tiles, tile_cards
from specsar_jax.trained import run_files
from specsar_jax.version import __version__
from tfds_dwplus import bands

HEADLINE = {
    "mean_iou": "Mean IoU",
    "overall_accuracy": "Overall accuracy",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "kappa": "Kappa",
    "boundary_iou": "Boundary IoU",
}
"""Names of the figures of a split, by key."""

FEW_TILES = 20
"""With fewer tiles, bootstrap intervals are clearly too short: they underestimate the spread of n tiles by the root of (n - 1) / n,
and use the normal quantile instead of Student's. Together this makes them 9 % shorter for 20 tiles, a third shorter for 5."""


def render(runs: Sequence[Run], split: str, most: int, seed: int, command: Sequence[str] = ()) -> str:
    """Renders the page: runs are compared with the first one, and `most` best, worst and random tiles are shown, and a typical one. The
    networks are run on these tiles where data and checkpoints exist.
    """
    first = runs[0]
    scores = metrics.headline(first.tally.confusion)
    chosen = choose_tiles(first.tally, scores["overall_accuracy"], most, seed)
    cards, notes = tile_cards(runs, split, list(dict.fromkeys(place for some in chosen.values() for place in some)))
    filters = {
        "percent": percent,
        "points": points,
        "count": count,
        "area": area,
        "in_unit": lambda value, unit: area(value) if unit == "ha" else percent(value),
        "plain": plain_name,
        "csp_hash": csp_hash,
        "shell": shlex.join,
        "root": lambda share: round(math.sqrt(share), 3),
    }
    classes = first.classes
    try:
        return template(Path(__file__).with_name("report.html"), filters).render(
            runs=runs,
            split=split,
            classes=classes.names,
            colours={
                "own": classes.colours,
                "safe": palettes.safe_colours(classes),
                "drawn": tile_images.drawn_colours(classes),
                "wrong": tile_images.WRONG,
                "right": tile_images.RIGHT,
            },
            headline={
                key: name for key, name in HEADLINE.items() if any(run.figures.get(key) is not None for run in runs)
            },
            figure_names={key: name[0].lower() + name[1:] for key, name in HEADLINE.items()},
            differences=[_difference(run, first) for run in runs[1:]],
            mixups={run.name: largest_mixups(run) for run in runs},
            composition=composition(runs),
            groups=group_rows(runs),
            calibrations={run.name: run_files.read_calibration(run.workdir, run.figures["step"]) for run in runs},
            reliability={
                run.name: charts.reliability(run.figures["calibration"]["bins"], index, run.name)
                for index, run in enumerate(runs)
                if run.figures.get("calibration")
            },
            chosen={kind: [cards[place] for place in some if place in cards] for kind, some in chosen.items()},
            notes=notes,
            seed=seed,
            ramp=tile_images.CONFIDENCE_RAMP,
            typical=next((abridged(cards[place], len(runs)) for place in chosen["typical"] if place in cards), None),
            places=map_of_places(
                first.tally, scores["overall_accuracy"], {place: card.anchor for place, card in cards.items()}
            ),
            curves=training_curves(runs),
            settings=settings(runs),
            parameters={run.name: parameter_count(run.config) for run in runs},
            limits={run.name: limits(run) for run in runs},
            used={run.name: used_in_training(run) for run in runs},
            config_json={run.name: json.dumps(configs.to_dict(run.config), indent=1) for run in runs},
            command=shlex.join(command),
            software=f"specsar_jax {__version__}",
        )
    except jinja2.UndefinedError as error:
        raise ValueError(
            f"an evaluation of split {split!r} lacks a figure of the report ({error}); write it again with specsar_jax.evaluate"
        ) from None


def largest_mixups(run: Run, most: int = 3) -> list[dict[str, Any]]:
    """Returns the most frequent errors: `label`, `prediction`, `pixels`, and `share` of the label's pixels."""
    confusion = np.array(run.figures["confusion_matrix"])
    errors = confusion * ~np.eye(len(confusion), dtype=bool)
    classes, totals = run.figures["classes"], confusion.sum(axis=1)
    worst = [np.unravel_index(place, errors.shape) for place in np.argsort(-errors, axis=None, kind="stable")[:most]]
    return [
        {
            "label": classes[row],
            "prediction": classes[column],
            "pixels": int(errors[row, column]),
            "share": float(errors[row, column] / totals[row]),
        }
        for row, column in worst
        if errors[row, column]
    ]


def composition(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the shares of the classes among the labelled pixels: by label, for the first run, and by prediction of each run."""
    parts = []
    for index, run in enumerate(runs):
        confusion = np.array(run.figures["confusion_matrix"], np.float64)
        total = max(confusion.sum(), 1.0)
        if index == 0:
            parts.append({"title": "Labels", "run": None, "shares": (confusion.sum(axis=1) / total).tolist()})
        parts.append({"title": "Map", "run": index, "shares": (confusion.sum(axis=0) / total).tolist()})
    return parts


def group_rows(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Returns for each grouping column its values, and for each value the figures of each run, or None."""
    columns = list(dict.fromkeys(column for run in runs for column in run.figures.get("groups", {})))
    rows = {}
    for column in columns:
        by_run = [run.figures.get("groups", {}).get(column, {}) for run in runs]
        values = sorted({value for groups in by_run for value in groups}, key=_in_order)
        rows[column] = [
            {"name": _group_name(column, value), "runs": [groups.get(value) for groups in by_run]} for value in values
        ]
    return rows


def training_curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Draws charts of the run logs, each with `title`, `note` and `svg`; a chart shows all runs."""

    def curve(kind: str, key: str, name: str = "", dashed: bool = False) -> list[charts.Line]:
        found = []
        for index, run in enumerate(runs):
            events = [event for event in run.journal[kind] if key in event]
            if events:
                steps, values = ([event[field] for event in events] for field in ("step", key))
                found.append(charts.Line(f"{run.name}{name}", index, steps, values, dashed))
        return found

    validation = curve("eval", "mean_iou", ", mean IoU") + curve("eval", "overall_accuracy", ", overall accuracy", True)
    parts = [
        ("Training loss", "", curve("train", "loss"), False),
        ("Validation", "mean IoU solid, overall accuracy dashed", validation, True),
        ("Validation loss", "", curve("eval", "loss"), False),
        ("Learning rate", "", curve("train", "learning_rate"), False),
        ("Tiles per second", "", curve("train", "tiles_per_second"), False),
        ("Share of time waiting for data", "", curve("train", "data_wait_share"), True),
    ]
    return [
        {"title": title, "note": note, "svg": charts.lines(curves, title, percent=percent)}
        for title, note, curves, percent in parts
        if curves
    ]


def settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the config fields in which a run differs from the defaults: `field`, `default`, and the value in each run."""
    default, *trees = (
        json.loads(json.dumps(configs.to_dict(config))) for config in (Config(), *(run.config for run in runs))
    )
    return [
        {
            "field": f"{section}.{field}",
            "default": _written(value),
            "runs": [_written(tree[section][field]) for tree in trees],
        }
        for section, fields in default.items()
        for field, value in fields.items()
        if any(tree[section][field] != value for tree in trees)
    ]


def parameter_count(config: Config) -> int:
    """Returns the number of trainable parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.abstract_params(config.model)["params"]))


def used_in_training(run: Run) -> bool:
    """Returns whether the run used tiles of the evaluated split for training, or to choose its checkpoint."""
    data = run.config.data

    def parts(split: str) -> set[str]:
        return {part.partition("[")[0].strip() for part in split.split("+")} - {""}

    seen, judged = parts(data.train_split) | parts(data.validation_split), parts(run.figures["split"])
    return run.dataset_name == data.name and ("all" in seen | judged or bool(seen & judged))


def limits(run: Run) -> list[str]:
    """Returns the limits of the run that its figures show, as sentences."""
    figures, said = run.figures, []
    per_class, total = figures["per_class"], figures["labelled_pixels"]
    if run.simulated:
        said.append("The tiles are SIMULATED: no pixel was measured. No figure here says anything about real land.")
    if run.agreement:
        said.append(run.agreement)
    if run.taught:
        said.append(run.taught)
    if line := not_of_the_best(run):
        said.append(f"{line}.")
    if used_in_training(run):
        said.append("Tiles that the training used were judged: the figures are better than those of new tiles.")
    absent = [name for name in figures["classes"] if not per_class[name]["pixels"]]
    if absent:
        said.append(f"There is no labelled pixel of {_listed(absent)}: how well the map finds them is not known.")
    scarce = [name for name in figures["classes"] if 0 < per_class[name]["pixels"] < 0.01 * total]
    if scarce:
        said.append(f"Less than 1 % of the labelled pixels each: {_listed(scarce)}. Their figures rest on little.")
    weak = [name for name in figures["classes"] if (per_class[name]["iou"] or 0.0) < 0.4 and per_class[name]["pixels"]]
    if weak:
        said.append(f"IoU is below 40 % for {_listed(weak)}.")
    said.append(
        f"The figures are of {figures['tiles']:,} tiles. The intervals say how much they would vary over other tiles drawn like "
        "these, not over places that these tiles do not represent."
    )
    if figures["tiles"] < FEW_TILES:
        said.append(f"Fewer than {FEW_TILES} tiles: bootstrap intervals over tiles are narrower than they should be.")
    group_sizes = [group["tiles"] for groups in figures.get("groups", {}).values() for group in groups.values()]
    if group_sizes and min(group_sizes) < 10:
        said.append("Some of the groups have fewer than ten tiles.")
    ece = (figures.get("calibration") or {}).get("ece")
    if ece is not None and ece > 0.05:
        said.append(f"Stated confidence and accuracy are {100 * ece:.1f} points apart on average.")
    unsampled = (figures.get("area") or {}).get("unsampled_share")
    if unsampled:
        said.append(f"{100 * unsampled:.1f} % of the mapped area is of classes without a sample; areas leave it out.")
    return said


def percent(value: float | int | None, digits: int = 1) -> str:
    """Formats a share in percent: 0.5378 -> '53.8'; a dash for None."""
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else _signed(f"{100 * value:.{digits}f}")


def points(value: float | int | None) -> str:
    """Formats a difference of shares in percentage points, with its sign."""
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else _signed(f"{100 * value:+.1f}")


def count(value: float | int | None) -> str:
    """Formats a number: 1234567 -> '1,234,567'."""
    return "\N{EN DASH}" if value is None else f"{value:,.0f}"


def area(value: float | int | None) -> str:
    """Formats hectares: below 10 with one decimal, else without."""
    return (
        "\N{EN DASH}"
        if value is None or not math.isfinite(value)
        else _signed(f"{value:,.{0 if abs(value) >= 10 else 1}f}")
    )


def plain_name(name: str) -> str:
    """Returns a class name without underscores: 'shrub_and_scrub' -> 'shrub and scrub'."""
    return name.replace("_", " ")


def csp_hash(script: str) -> str:
    """Returns the hash of a script by which the content security policy allows it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()}"


def _difference(run: Run, first: Run) -> dict[str, Any]:
    """Returns `intervals.paired_difference` of a run and the first one, or `missing`, the reason why there is none."""
    if not of_same_data(run, first):
        return {"run": run.name, "missing": "it was evaluated on another data set"}
    try:
        return {"run": run.name, "missing": ""} | intervals.paired_difference(run.tally, first.tally)
    except ValueError as error:
        return {"run": run.name, "missing": str(error)}


def _group_name(column: str, value: str) -> str:
    if column == "biome" and value.isdigit():
        return (
            f"{value} · {bands.BIOMES[int(value) - 1]}"
            if 0 < int(value) <= len(bands.BIOMES)
            else f"{value} · not known"
        )
    return plain_name(value) or "not known"


def _in_order(value: str) -> tuple[int, str]:
    return (int(value), "") if value.isdigit() else (sys.maxsize, value)


def _written(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _signed(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _listed(names: Sequence[str]) -> str:
    *others, last = (plain_name(name) for name in names)
    return f"{', '.join(others)} and {last}" if others else last
