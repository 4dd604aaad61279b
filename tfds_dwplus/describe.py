"""Command: print tables of what a prepared data set holds (Markdown), and optionally write them as JSON.

python -m tfds_dwplus.describe --data_dir data --name mine --json mine.json

Enters: a prepared data set. Leaves: tables of tiles and pixels by split, class, biome, hemisphere and annotator, and of
Sentinel-1 scenes per tile; a line tells what is known of no tile. `tiles.contents` counts them.
"""

import contextlib

from tfds_dwplus.command_line import Parser, data_folder, path, run
from tfds_dwplus.files.outputs import output_claimed, write_json
from tfds_dwplus.tiles.contents import GROUPS, Description, Sums, describe, scene_summary
from tfds_dwplus.tiles.labelling.annotators import not_accuracy
from tfds_dwplus.tiles.prepared import open_dataset


def main(argv: list[str]) -> None:
    """Parses the arguments, counts the data set and prints its tables."""
    parser = Parser(
        "Tables of what a prepared data set holds.",
        "python -m tfds_dwplus.describe --data_dir data --name mine --json mine.json",
    )
    parser.add_argument("--data_dir", type=data_folder, required=True, help="folder of prepared data sets")
    parser.add_argument("--name", required=True, help="name of the data set dynamic_world_plus/NAME")
    parser.add_argument("--json", type=path, help="write the sums to this file too")
    args = parser.parse_args(argv)
    with output_claimed(args.json, "--json") if args.json else contextlib.nullcontext() as final:
        builder = open_dataset(args.data_dir, args.name)
        description = describe(builder)
        print(tables(description))
        if final:
            write_json(final, description.to_json())


def tables(description: Description) -> str:
    """Formats a description as Markdown. What is known of no tile has no table."""
    splits = description.groups["split"]
    whole = Sums()
    for sums in splits.values():
        whole.add(sums)
    columns = splits | {"all": whole}
    parts = [
        f"# {description.dataset}\n\nTiles: {description.source or 'of unknown origin'}",
        *filter(None, [not_accuracy(description.labelled_by)]),
        "## Tiles and pixels by split\n\n"
        + _table(
            ("split", "tiles", "pixels", "labelled", "unlabelled"),
            [
                (split, f"{s.tiles:,}", f"{s.pixels:,}", f"{_labelled(s):,}", _unlabelled(s))
                for split, s in columns.items()
            ],
        ),
        "## Labelled pixels by class\n\n"
        + _table(
            ("class", *columns, "share"),
            [
                (name, *(f"{s.class_pixels[place]:,}" for s in columns.values()), _share(whole, place))
                for place, name in enumerate(description.classes.names)
            ],
        ),
    ]
    grouped = [name for name in GROUPS if set(description.groups.get(name, ())) - {"unknown"}]
    for name in grouped:
        heading = f"## By {name}\n\nClasses in percent of the labelled pixels.\n\n"
        parts.append(heading + _group_table(name, description.groups[name], description.classes.names))
    summaries = {split: scene_summary(counts) for split, counts in description.scenes.items()}
    scenes_known = any(s["tiles"] for s in summaries.values())
    if scenes_known:
        header = ("split", "tiles", "min", "median", "max", "unknown")
        rows = [
            (split, *("-" if s[k] is None else f"{s[k]:g}" for k in ("tiles", "min", "median", "max", "unknown")))
            for split, s in summaries.items()
        ]
        parts.append("## Sentinel-1 scenes per tile\n\n" + _table(header, rows))
    absent = description.absent()
    if absent:
        parts.append(f"The records do not have: {', '.join(absent)}.")
    shown = [*grouped, *(["s1_scenes"] if scenes_known else [])]
    if unknown := [name for name in (*GROUPS, "s1_scenes") if name not in (*shown, *absent)]:
        parts.append(f"Known of no tile: {', '.join(unknown)}.")
    return "\n\n".join(parts)


def _group_table(name: str, group: dict[str, Sums], classes: tuple[str, ...]) -> str:
    def order(value: str) -> tuple[bool, int, str]:
        first = value.split()[0]
        return value == "unknown", int(first) if first.isdigit() else 0, value

    header = (name, "tiles", "labelled", "unlabelled", *(f"{class_} %" for class_ in classes))
    rows = []
    for value in sorted(group, key=order):
        sums = group[value]
        shares = (_share(sums, place).removesuffix(" %") for place in range(len(classes)))
        rows.append((value, f"{sums.tiles:,}", f"{_labelled(sums):,}", _unlabelled(sums), *shares))
    return _table(header, rows)


def _labelled(sums: Sums) -> int:
    return int(sums.class_pixels.sum())


def _unlabelled(sums: Sums) -> str:
    return f"{100 * (1 - _labelled(sums) / sums.pixels):.1f} %" if sums.pixels else "-"


def _share(sums: Sums, place: int) -> str:
    return f"{100 * sums.class_pixels[place] / _labelled(sums):.1f} %" if _labelled(sums) else "-"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Makes a Markdown table that is readable as text: the first column left-aligned, the others right-aligned."""
    header, *rows = (tuple(text.replace("|", r"\|") for text in row) for row in (header, *rows))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def align(text: str, place: int) -> str:
        return text.rjust(widths[place]) if place else text.ljust(widths[place])

    lines = ["| " + " | ".join(align(text, place) for place, text in enumerate(row)) + " |" for row in (header, *rows)]
    rule = "| " + " | ".join(
        "-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths)
    )
    return "\n".join([lines[0], rule + " |", *lines[1:]])


if __name__ == "__main__":
    run(main)
