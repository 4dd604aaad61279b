"""Command: one HTML page about a run, or about some runs side by side: how accurate, how sure, where wrong, made from what.

    python -m specsar_jax.report --workdir runs/quickstart
    python -m specsar_jax.report --workdir runs/a --workdir runs/b --output compared.html

Enters: workdirs with an evaluation of the split, and the data set for the pictures. Leaves: a page that holds all that it
shows, and asks for nothing else. Figures are those of `evaluation_<split>.json` and of the sums in `tiles_<split>.npz`; the
network is run for the tiles that are shown, and for nothing else.
"""

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
from jaxtyping import Float

import specsar_jax
from specsar_jax import accuracy, charts, checkpoints, metrics, model
from specsar_jax import config as configs
from specsar_jax.compilation import keep_compiled_programs
from specsar_jax.config import Config
from specsar_jax.runs import Run, read_runs
from specsar_jax.tile_cards import choose_tiles, tile_cards
from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, written_whole
from tfds_dwplus.command_line import run as run_command
from tfds_dwplus.describe import check_output

HEADLINE = {
    "mean_iou": "Mean IoU",
    "overall_accuracy": "Overall accuracy",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "kappa": "Kappa",
    "boundary_iou": "Boundary IoU",
}
"""Figures of the split, and what they are called."""

FEW_TILES = 20
"""A bootstrap of fewer gives intervals that are too short: of n draws the spread comes out smaller by the root of (n - 1) / n, and the
normal quantile stands in for Student's. Of 20 both together take 9 %, of 5 a third."""

MOST_PLACES = 2000
"""Tiles on the map, one by one; more are put together in cells."""


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the page."""
    parser = Parser(
        "Writes one self-contained HTML page about a run, or about some runs side by side.",
        "python -m specsar_jax.report --workdir runs/quickstart",
    )
    parser.add_argument("--workdir", type=Path, action="append", required=True, help="of a run; again for another run")
    parser.add_argument("--split", default="test", help="that was evaluated, in TFDS's notation")
    parser.add_argument("--output", type=Path, help="HTML file; report.html in the first workdir if not given")
    parser.add_argument("--data_dir", help="folder of prepared data sets; the run's own if not given")
    parser.add_argument(
        "--tiles", type=int, default=6, help="to show of the worst, the best, and by lot, each; 0 for none"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other tiles")
    args = parser.parse_args(argv)
    if not 0 <= args.tiles <= 24:
        raise ValueError(f"--tiles is {args.tiles}, expected 0 to 24")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}, expected 0 or a positive number")
    if args.output:
        check_output(args.output, "--output")
    keep_compiled_programs()
    runs = read_runs(args.workdir, args.split, args.data_dir)
    path = args.output or args.workdir[0] / "report.html"
    page = render(runs, args.split, args.tiles, args.seed, command=["python", "-m", "specsar_jax.report", *argv])
    with written_whole(path) as part:
        part.write_text(page, encoding="utf-8")
    print(f"{path}: {len(page.encode()) / 1e6:.1f} MB, open it in a browser")


def render(runs: Sequence[Run], split: str, most: int, seed: int, command: Sequence[str] = ()) -> str:
    """The page. Reads records and checkpoints, as far as there, of the tiles that it shows."""
    first = runs[0]
    scores = metrics.headline(first.tally.confusion)
    chosen = choose_tiles(first.tally, scores["overall_accuracy"], most, seed)
    cards, notes = tile_cards(runs, split, list(dict.fromkeys(place for of in chosen.values() for place in of)))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "count": count,
        "area": area,
        "in_unit": lambda value, unit: area(value) if unit == "ha" else percent(value),
        "plain": plain_name,
        "csp_hash": csp_hash,
        "shell": shlex.join,
        "score_class": charts.score_class,
    }
    colours = dict(zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True))
    try:
        return environment.get_template("report.html").render(
            runs=runs,
            split=split,
            classes=first.figures["classes"],
            colours={name: f"#{colours.get(name, '888888')}" for name in first.figures["classes"]},
            headline={
                key: name for key, name in HEADLINE.items() if any(run.figures.get(key) is not None for run in runs)
            },
            figure_names={key: name[0].lower() + name[1:] for key, name in HEADLINE.items()},
            differences=[_difference(run, first) for run in runs[1:]],
            mixups={run.name: largest_mixups(run) for run in runs},
            composition=composition(runs),
            groups=group_rows(runs),
            calibrations={run.name: checkpoints.read_calibration(run.workdir, run.figures["step"]) for run in runs},
            reliability={
                run.name: charts.reliability(run.figures["calibration"]["bins"], index, run.name)
                for index, run in enumerate(runs)
                if run.figures.get("calibration")
            },
            chosen={kind: [cards[place] for place in of if place in cards] for kind, of in chosen.items()},
            notes=notes,
            seed=seed,
            ramp=charts.CONFIDENCE_RAMP,
            places=map_of_places(
                first, scores["overall_accuracy"], {place: card.anchor for place, card in cards.items()}
            ),
            score_edges=charts.SCORE_EDGES,
            curves=training_curves(runs),
            settings=settings(runs),
            parameters={run.name: parameter_count(run.config) for run in runs},
            limits={run.name: limits(run) for run in runs},
            used={run.name: used_in_training(run) for run in runs},
            config_json={run.name: json.dumps(configs.to_dict(run.config), indent=1) for run in runs},
            command=shlex.join(command),
            software=f"specsar_jax {specsar_jax.__version__}",
        )
    except jinja2.UndefinedError as error:
        raise ValueError(
            f"an evaluation of split {split!r} lacks what the report tells ({error}); write it again with specsar_jax.evaluate"
        ) from None


def largest_mixups(run: Run, most: int = 3) -> list[dict[str, Any]]:
    """The most frequent errors: `label`, `prediction`, `pixels`, and `share` of the label's pixels."""
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
    """Shares of the classes among the labelled pixels: of the first run as labelled, and of each as mapped."""
    parts = []
    for index, run in enumerate(runs):
        confusion = np.array(run.figures["confusion_matrix"], np.float64)
        total = max(confusion.sum(), 1.0)
        if index == 0:
            parts.append({"title": "Labels", "run": None, "shares": (confusion.sum(axis=1) / total).tolist()})
        parts.append({"title": "Map", "run": index, "shares": (confusion.sum(axis=0) / total).tolist()})
    return parts


def group_rows(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """For each column of the data set that a run is grouped by, its values and, run for run, their figures or None."""
    columns = list(dict.fromkeys(column for run in runs for column in run.figures.get("groups", {})))
    rows = {}
    for column in columns:
        of = [run.figures.get("groups", {}).get(column, {}) for run in runs]
        values = sorted({value for groups in of for value in groups}, key=_in_order)
        rows[column] = [
            {"name": _group_name(column, value), "runs": [groups.get(value) for groups in of]} for value in values
        ]
    return rows


def map_of_places(run: Run, scores: Float[np.ndarray, " tile"], anchors: dict[int, str]) -> Any | None:
    """The map of the tiles with a place and a score; None if there are none."""
    lon, lat = (
        np.asarray(run.tally.columns.get(name, np.full(len(run.tally), np.nan)), np.float64) for name in ("lon", "lat")
    )
    there = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat) & np.isfinite(scores))
    if not len(there):
        return None
    title = f"Places of {len(there):,} tiles, coloured by their overall accuracy"
    if len(there) <= MOST_PLACES:
        radius = 6.0 if len(there) <= 100 else 4.0
        shown = [
            charts.Place(
                str(run.tally.tile_id[i]), *map(float, (lon[i], lat[i], scores[i])), radius, anchors.get(i, "")
            )
            for i in there
        ]
        return charts.places(shown, title)
    # Too many for a page: tiles of a cell together, about 60 cells across.
    size = max(np.ptp(lon[there]), np.ptp(lat[there]), 1e-6) / 60
    cells: dict[tuple[int, int], list[int]] = {}
    for i in there:
        cells.setdefault((int(lon[i] // size), int(lat[i] // size)), []).append(i)
    shown = []
    for of in cells.values():
        confusion = run.tally.confusion[of].sum(axis=0)
        score = float(confusion.trace() / confusion.sum())
        middle, radius = (float(lon[of].mean()), float(lat[of].mean())), 2.5 + 1.5 * math.log10(len(of))
        shown.append(charts.Place(f"{len(of)} tiles", *middle, score, radius))
    return charts.places(shown, f"{title}, those of a cell together")


def training_curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Charts of what the journals hold, each `title`, `note` and `svg`, all runs in one."""

    def curve(kind: str, key: str, name: str = "", dashed: bool = False) -> list[charts.Line]:
        found = []
        for index, run in enumerate(runs):
            events = [event for event in run.journal[kind] if key in event]
            if events:
                steps, values = ([event[of] for event in events] for of in ("step", key))
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
        {"title": title, "note": note, "svg": charts.lines(of, title, percent=percent)}
        for title, note, of, percent in parts
        if of
    ]


def settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Fields of the config in which a run differs from the defaults: `field`, `default`, and the value in each run."""
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
    """Numbers that the network learns."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.abstract_params(config.model)["params"]))


def used_in_training(run: Run) -> bool:
    """Whether a part of the split that was evaluated is one that the run learnt from, or that chose its checkpoint."""
    data = run.config.data

    def parts(split: str) -> set[str]:
        return {part.partition("[")[0].strip() for part in split.split("+")} - {""}

    seen, judged = parts(data.train_split) | parts(data.validation_split), parts(run.figures["split"])
    return run.dataset_name == data.name and ("all" in seen | judged or bool(seen & judged))


def limits(run: Run) -> list[str]:
    """What the figures say that the run must not be trusted with, in sentences."""
    figures, said = run.figures, []
    per_class, total = figures["per_class"], figures["labelled_pixels"]
    if run.simulated:
        said.append("The tiles are SIMULATED: no pixel was measured. No figure here says anything about real land.")
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
        "these, not over places that these do not stand for."
    )
    if figures["tiles"] < FEW_TILES:
        said.append(f"Fewer than {FEW_TILES} tiles: intervals by drawing tiles are narrower than they should be.")
    tiles_of = [of["tiles"] for groups in figures.get("groups", {}).values() for of in groups.values()]
    if tiles_of and min(tiles_of) < 10:
        said.append("Some of the groups have fewer than ten tiles.")
    ece = (figures.get("calibration") or {}).get("ece")
    if ece is not None and ece > 0.05:
        said.append(f"Stated confidence and accuracy are {100 * ece:.1f} points apart on average.")
    unsampled = (figures.get("area") or {}).get("unsampled_share")
    if unsampled:
        said.append(f"{100 * unsampled:.1f} % of the mapped area is of classes without a sample; areas leave it out.")
    return said


def percent(value: float | int | None, digits: int = 1) -> str:
    """0.5378 -> '53.8'; a dash for what is not there."""
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else _signed(f"{100 * value:.{digits}f}")


def points(value: float | int | None) -> str:
    """A difference, in points of a hundred, with its sign."""
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else _signed(f"{100 * value:+.1f}")


def count(value: float | int | None) -> str:
    """1234567 -> '1,234,567'."""
    return "\N{EN DASH}" if value is None else f"{value:,.0f}"


def area(value: float | int | None) -> str:
    """Hectares: as many digits as say something."""
    return (
        "\N{EN DASH}"
        if value is None or not math.isfinite(value)
        else _signed(f"{value:,.{0 if abs(value) >= 10 else 1}f}")
    )


def plain_name(name: str) -> str:
    """'shrub_and_scrub' -> 'shrub and scrub'."""
    return name.replace("_", " ")


def csp_hash(script: str) -> str:
    """The source by which a content security policy knows a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()}"


def _difference(run: Run, first: Run) -> dict[str, Any]:
    """`accuracy.paired_difference` of a run and the first, or why there is none."""
    try:
        return {"run": run.name, "missing": ""} | accuracy.paired_difference(run.tally, first.tally)
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


if __name__ == "__main__":
    run_command(main)
