"""Command: one HTML page about a run, or about some runs side by side: how accurate, how sure, where wrong, made from what.

    python -m specsar_jax.report --workdir runs/quickstart
    python -m specsar_jax.report --workdir runs/a --workdir runs/b --output compared.html

Enters: workdirs with an evaluation of the split, and the data set for the pictures. Leaves: a page that holds all that it
shows, and asks for nothing else. Figures are those of `evaluation_<split>.json` and of the sums in `tiles_<split>.npz`; the
network is run for the tiles that are shown, and for nothing else.
"""

import base64
import dataclasses
import hashlib
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jinja2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

import specsar_jax
from specsar_jax import accuracy, charts, checkpoints, evaluate, inference, metrics, model, pipeline, preprocess
from specsar_jax import config as configs
from specsar_jax.checkpoints import Trained
from specsar_jax.compilation import keep_compiled_programs
from specsar_jax.config import Config
from specsar_jax.preprocess import Statistics
from specsar_jax.tally import Tally
from tfds_dwplus import bands, look
from tfds_dwplus.command_line import Parser, progress, written_whole
from tfds_dwplus.command_line import run as run_command
from tfds_dwplus.describe import check_output
from tfds_dwplus.prepared import open_dataset, read_split

HEADLINE = {
    "mean_iou": "Mean IoU",
    "overall_accuracy": "Overall accuracy",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "kappa": "Kappa",
    "boundary_iou": "Boundary IoU",
}
"""Figures of the split, and what they are called."""

MOST_PICTURE_PX = 384
"""Side of a picture of a tile; larger tiles are made smaller."""

MOST_PLACES = 2000
"""Tiles on the map, one by one; more are put together in cells."""

LEAST_SHARE = 0.1
"""Of the median of labelled pixels: a tile with fewer is neither best nor worst."""

_MOST_RUNS = 6


@dataclasses.dataclass(frozen=True)
class Run:
    """What the files of a workdir say of a run and of its evaluation."""

    name: str
    workdir: Path
    config: Config
    statistics: Statistics
    figures: dict[str, Any]
    """Of `evaluation_<split>.json`."""
    tally: Tally
    journal: dict[str, list[dict[str, float]]]
    """Events of `metrics.jsonl` by kind, numbers only."""
    started: dict[str, Any]
    """Of `run.json`: versions, devices, command; empty if there is none."""
    dataset: tfds.core.DatasetBuilder | None
    dataset_missing: str
    """Why there is no data set to take pictures from."""

    def interval(self, path: str) -> list[float] | None:
        """The 95 % interval of a figure by its dotted path."""
        return self.figures.get("intervals", {}).get(path)

    @property
    def origin(self) -> dict[str, Any]:
        """What the data set says it was made from."""
        return (self.dataset.info.metadata.get("origin") if self.dataset else None) or {}

    @property
    def simulated(self) -> bool:
        """Whether no pixel of it was measured."""
        return str(self.origin.get("source", "")).startswith("SIMULATED") or self.config.data.name == "simulated"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that the page holds."""

    title: str
    uri: str
    alt: str
    run: int | None = None
    """Place of the run whose work it shows."""


@dataclasses.dataclass(frozen=True)
class Card:
    """A tile with its pictures."""

    anchor: str
    tile_id: str
    facts: list[str]
    scores: list[dict[str, Any]]
    """Of each run that has the tile: `run`, `overall_accuracy`, `mean_iou`."""
    pictures: list[Picture]


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


def read_runs(workdirs: Sequence[Path], split: str, data_dir: str | None = None) -> list[Run]:
    """The runs of some workdirs.

    Raises:
        ValueError: not a workdir, no evaluation of the split, or runs of different classes; no data set in `data_dir`, where
            that is given.
    """
    if len(set(workdirs)) < len(workdirs):
        raise ValueError("a --workdir is given twice; give each run once")
    if len(workdirs) > _MOST_RUNS:
        raise ValueError(f"{len(workdirs)} workdirs are given, expected {_MOST_RUNS} at most")
    names = _names(workdirs)
    runs = [read_run(workdir, name, split, data_dir) for workdir, name in zip(workdirs, names, strict=True)]
    first = runs[0]
    for other in runs[1:]:
        if other.figures["classes"] != first.figures["classes"]:
            raise ValueError(
                f"{first.workdir} and {other.workdir} have different classes ({', '.join(first.figures['classes'])}; "
                f"{', '.join(other.figures['classes'])}) and cannot be compared; report on each by itself"
            )
    return runs


def read_run(workdir: Path, name: str, split: str, data_dir: str | None = None) -> Run:
    """The run of a workdir. Raises ValueError as `read_runs` does."""
    config = checkpoints.read_config(workdir)
    statistics = Statistics.read(workdir / "statistics.json")
    path = workdir / evaluate.split_file("evaluation", split, "json")
    if not path.is_file():
        found = ", ".join(sorted(of.name for of in workdir.glob("evaluation_*.json"))) or "none"
        raise ValueError(
            f"{workdir} has no evaluation of split {split!r} (found: {found}); make it with python -m specsar_jax.evaluate "
            f"--workdir {workdir} --split {split}"
        )
    figures = _read_figures(path)
    folder = data_dir if data_dir is not None else config.data.data_dir
    tiles = workdir / evaluate.split_file("tiles", split, "npz")
    if not tiles.is_file():
        print(f"{workdir} has no {tiles.name}: the network is run over {split} again", file=sys.stderr)
        of = ("--split", split, "--data_dir", str(folder), "--dataset", _dataset_name(figures))
        evaluate.main(["--workdir", str(workdir), *of])
        figures = _read_figures(path)
    try:
        dataset, missing = open_dataset(folder, _dataset_name(figures)), ""
    except ValueError as error:
        if data_dir is not None:
            raise
        dataset, missing = None, str(error)
    tally = Tally.read(tiles)
    if int(tally.confusion.sum()) != figures["labelled_pixels"]:
        raise ValueError(
            f"{path} and {tiles.name} are not of one evaluation ({figures['labelled_pixels']} and {int(tally.confusion.sum())} "
            "labelled pixels); write both again with python -m specsar_jax.evaluate"
        )
    return Run(
        name,
        workdir,
        config,
        statistics,
        figures,
        tally,
        read_journal(workdir / "metrics.jsonl"),
        _read_started(workdir / "run.json"),
        dataset,
        missing,
    )


def read_journal(path: Path) -> dict[str, list[dict[str, float]]]:
    """The numbers of a `metrics.jsonl` by kind of event; a line cut short does not count, nor does a missing file."""
    events: dict[str, list[dict[str, float]]] = {"train": [], "eval": [], "skipped": []}
    if not path.is_file():
        return events
    with path.open() as file:
        for line in file:
            try:
                event = json.loads(line)
                kind, step = event["kind"], float(event["step"])
            except (ValueError, KeyError, TypeError):
                continue
            plain = {key: float(of) for key, of in event.items() if isinstance(of, int | float) and math.isfinite(of)}
            events.setdefault(kind, []).append(plain | {"step": step})
    return events


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
            config_json={run.name: json.dumps(configs.to_dict(run.config), indent=1) for run in runs},
            command=shlex.join(command),
            software=f"specsar_jax {specsar_jax.__version__}",
        )
    except jinja2.UndefinedError as error:
        raise ValueError(
            f"an evaluation of split {split!r} lacks what the report tells ({error}); write it again with specsar_jax.evaluate"
        ) from None


def choose_tiles(tally: Tally, scores: Float[np.ndarray, " tile"], most: int, seed: int) -> dict[str, list[int]]:
    """Places in the tally of the `worst` and `best` tiles by overall accuracy, and of a `sample` drawn by lot from all.

    A tile with few labelled pixels is neither best nor worst; none is both.
    """
    labelled = tally.confusion.sum(axis=(1, 2))
    enough = (
        np.isfinite(scores) & (labelled >= LEAST_SHARE * np.median(labelled[labelled > 0])) if labelled.any() else []
    )
    ranked = np.flatnonzero(enough)
    ranked = ranked[np.argsort(scores[ranked], kind="stable")].tolist()
    each = min(most, len(ranked) // 2)
    best = ranked[len(ranked) - each :][::-1]
    return {"worst": ranked[:each], "best": best, "sample": look.choose(len(tally), most, seed)}


def tile_cards(runs: Sequence[Run], split: str, places: list[int]) -> tuple[dict[int, Card], list[str]]:
    """Cards of the tiles at some places of the first run's tally, and why a run has no pictures, where it has none."""
    first, notes = runs[0], []
    pictures: dict[int, list[Picture]] = {place: [] for place in places}
    scores: dict[int, list[dict[str, Any]]] = {place: [] for place in places}
    facts: dict[int, list[str]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    side = MOST_PICTURE_PX if len(runs) <= 2 else MOST_PICTURE_PX * 2 // 3
    for index, of in enumerate(runs if places else ()):
        rows = {str(name): row for row, name in enumerate(of.tally.tile_id)}
        wanted = {place: rows.get(str(first.tally.tile_id[place])) for place in places}
        wanted = {place: row for place, row in wanted.items() if row is not None}
        for place, row in wanted.items():
            figures = metrics.headline(of.tally.confusion[row])
            scores[place].append({"run": index} | {name: float(value) for name, value in figures.items()})
        predict = None
        try:
            predict = _predictor(of)
        except ValueError as error:
            notes.append(f"{of.name}: {error}")
            if of.dataset is None:
                continue
        try:
            source = pipeline.Readable(read_split(of.dataset, split), of.config.data.corrupt_records)
            with progress(total=len(wanted), desc=f"pictures of {of.name}", unit="tile", leave=False) as bar:
                for place, row in wanted.items():
                    record = _record(source, row, str(of.tally.tile_id[row]))
                    if index == 0:
                        pictures[place], sizes[place] = _pictures_of_record(
                            record, pipeline.dataset_bands(of.dataset), side
                        )
                        facts[place] = _facts(record)
                    if predict and place in sizes:
                        pictures[place] += _pictures_of_prediction(record, *predict(record), sizes[place], index, side)
                    bar.update()
        except ValueError as error:
            notes.append(f"{of.name}: {error}")
    cards = {
        place: Card(f"tile-{place}", str(first.tally.tile_id[place]), facts[place], scores[place], pictures[place])
        for place in places
        if place in facts
    }
    return cards, notes


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


def limits(run: Run) -> list[str]:
    """What the figures say that the run must not be trusted with, in sentences."""
    figures, said = run.figures, []
    per_class, total = figures["per_class"], figures["labelled_pixels"]
    if run.simulated:
        said.append("The tiles are SIMULATED: no pixel was measured. No figure here says anything about real land.")
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds a {type(tree).__name__}, expected an object")
    return tree


def _read_figures(path: Path) -> dict[str, Any]:
    figures = _read_json(path)
    needed = (
        *("dataset", "split", "step", "tiles", "labelled_pixels"),
        *("classes", "confusion_matrix", "per_class", "mean_iou", "overall_accuracy"),
    )
    missing = [key for key in needed if key not in figures]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; write it again with python -m specsar_jax.evaluate")
    classes, of_class = figures["classes"], {"iou", "f1", "precision", "recall", "pixels"}
    whole = all(of_class <= set(figures["per_class"].get(name, ())) for name in classes)
    if np.shape(figures["confusion_matrix"]) != (len(classes), len(classes)) or not whole:
        raise ValueError(
            f"{path} does not tell all of its {len(classes)} classes; write it again with specsar_jax.evaluate"
        )
    return figures


def _read_started(path: Path) -> dict[str, Any]:
    """What `run.json` says, as far as it is what training writes there."""
    kinds = {"started": str, "step": int, "command": list, "python": str, "platform": str, "devices": str}
    kinds |= {"processes": int, "versions": dict, "earlier": list}
    tree = _read_json(path) if path.is_file() else {}
    return {name: tree[name] for name, kind in kinds.items() if isinstance(tree.get(name), kind)}


def _dataset_name(figures: dict[str, Any]) -> str:
    """'dynamic_world_plus/mine/1.0.0' -> 'mine'."""
    return str(figures["dataset"]).split("/")[1] if "/" in str(figures["dataset"]) else str(figures["dataset"])


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of[-length:]) for of in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a --workdir is given twice; give each run once")


def _difference(run: Run, first: Run) -> dict[str, Any]:
    """`accuracy.paired_difference` of a run and the first, or why there is none."""
    try:
        return {"run": run.name, "missing": ""} | accuracy.paired_difference(run.tally, first.tally)
    except ValueError as error:
        return {"run": run.name, "missing": str(error)}


def _record(source: Any, place: int, tile_id: str) -> dict[str, Any]:
    """The record of a tile, at `place` or, where corrupt ones before it were left out, behind it."""
    for later in range(place, len(source)):
        record = source[later]
        if record["tile_id"].decode() == tile_id:
            return record
    raise ValueError(
        f"tile {tile_id} is not where the evaluation found it; the data set was made again: evaluate again"
    )


def _predictor(run: Run) -> Callable[[dict[str, Any]], tuple[np.ndarray, np.ndarray]]:
    """A function from a record to class ids, 255 without data, and their probability."""
    if run.dataset is None:
        raise ValueError(run.dataset_missing)
    trained = _trained(run)
    config = trained.config
    temperature = (run.figures.get("calibration") or {}).get("temperature", 1.0)
    rasters = pipeline.select(config.data.s2_bands, pipeline.dataset_bands(run.dataset), config.model.sensors)

    @jax.jit
    def network(s2: jax.Array, s1: jax.Array) -> tuple[jax.Array, jax.Array]:
        s2, s1 = preprocess.standardise(s2[None], s1[None], trained.statistics)
        how = {"config": config, "temperature": temperature}
        log_p = inference.log_probabilities(trained.variables, s2, s1, **how)[0]
        return jnp.argmax(log_p, axis=-1).astype(jnp.uint8), jnp.exp(log_p.max(axis=-1))

    def predict(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        tile = rasters(record)
        valid = preprocess.valid_pixels(tile["s2"], tile["s1"], config.model.sensors)
        class_id, confidence = jax.device_get(network(tile["s2"], tile["s1"]))
        return np.where(valid, class_id, np.uint8(bands.IGNORE)), np.where(valid, confidence, 0.0).astype(np.float32)

    return predict


def _trained(run: Run) -> Trained:
    """The network that was evaluated. Raises ValueError if its checkpoint is not there any more."""
    found = []
    for which in ("best", "latest"):
        trained = checkpoints.load_trained(run.workdir, which)
        if trained.step == run.figures["step"]:
            return trained
        found.append(f"step {trained.step} is the {which}")
    raise ValueError(
        f"the checkpoint of step {run.figures['step']}, which was evaluated, is gone ({', '.join(found)}): evaluate again"
    )


def _facts(record: dict[str, Any]) -> list[str]:
    """Place, date and annotator of a tile, as far as known."""
    lon, lat = float(record["lon"]), float(record["lat"])
    facts = (
        [f"{abs(lat):.3f}° {'N' if lat >= 0 else 'S'} {abs(lon):.3f}° {'E' if lon >= 0 else 'W'}"]
        if math.isfinite(lon + lat)
        else []
    )
    return facts + [text for text in (record[name].decode() for name in ("date", "annotator")) if text]


def _pictures_of_record(
    record: dict[str, Any], s2_bands: tuple[str, ...], side: int
) -> tuple[list[Picture], tuple[int, int]]:
    """The pictures of what the data set holds, without padding, and height and width of what is left."""
    tile_id = record["tile_id"].decode()
    panels = look.panels(record, s2_bands)
    height, width = panels.pop("label").shape[:2]
    shown = [Picture(title, charts.photograph(of, side), f"{title}, of tile {tile_id}") for title, of in panels.items()]
    label = record["label"][:height, :width]
    return [
        *shown,
        Picture("Label", charts.class_map(label, side), f"Label of tile {tile_id}: {charts.shares_in_words(label)}"),
    ], (
        height,
        width,
    )


def _pictures_of_prediction(
    record: dict[str, Any],
    prediction: UInt8[np.ndarray, "height width"],
    confidence: Float[np.ndarray, "height width"],
    size: tuple[int, int],
    run: int,
    side: int,
) -> list[Picture]:
    tile_id = record["tile_id"].decode()
    label, prediction, confidence = (of[: size[0], : size[1]] for of in (record["label"], prediction, confidence))
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
            "Prediction",
            charts.class_map(prediction, side),
            f"Prediction for tile {tile_id}: {charts.shares_in_words(prediction)}",
            run,
        ),
        Picture(
            "Confidence", charts.confidence_map(confidence, mapped, side), f"Confidence on tile {tile_id}: {sure}", run
        ),
        Picture("Errors", charts.error_map(judged, wrong, side), f"Errors on tile {tile_id}: {share}", run),
    ]


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
