"""Formats a comparison of maps as plain-text tables.

Enters: the figures of `comparison.summarise`, as in `comparison_<split>.json`, and the maps. Leaves: text.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from specsar_jax.accuracy import legends, metrics
from specsar_jax.accuracy.class_maps import Map

_SHOWN = {"mean_iou": "mIoU", "overall_accuracy": "OA", "macro_f1": "macro F1"}


def text(figures: dict[str, Any], maps: Sequence[Map]) -> str:
    """Formats the figures of `comparison.summarise`, and the legends of the maps, as text."""
    blocks, legend_of = [], {scored.name: scored.legend for scored in maps}
    for name, row in figures["maps"].items():
        if row["legend"]:
            pixels = {int(code): entry["pixels"] for code, entry in row["codes"].items()}
            lines = [f"{name}: {legends.table(legend_of[name], pixels)}"]
            if row["warped_tiles"]:
                lines.append(
                    f"  tiles on another grid than the label, warped by nearest neighbour: {row['warped_tiles']}"
                )
            if without := row["tiles_without"]:
                some = ", ".join(without[:3]) + ", ..." * (len(without) > 3)
                lines.append(f"  tiles without a pixel of it: {len(without)} ({some})")
            blocks.append("\n".join(lines))
    if "published" not in figures:
        (vote,) = figures["labelled_pixels"]
        rows = {name: row["labels"][vote] for name, row in figures["maps"].items()}
        blocks.append(_table("map", rows, figures["labelled_pixels"][vote]))
    else:
        for name, row in figures["maps"].items():
            blocks.append(_table(name, row["labels"], figures["labelled_pixels"], figures["published"]["by_vote"]))
        ceiling = figures["published"]["non_expert_against_consensus"]
        blocks.append(
            f"published: {figures['published']['source']}; not computed here. A non-expert agrees with the consensus on {100 * ceiling:.1f} %."
        )
    for name, row in figures["maps"].items():
        vote = "consensus" if "consensus" in row["labels"] else next(iter(row["labels"]))
        blocks.append(f"{name}, against {vote}\n{metrics.table(row['labels'][vote])}")
    classes = next(of for row in figures["maps"].values() for of in row["labels"].values())["classes"]
    blocks += [_pair_text(pair, classes) for pair in figures["pairs"]]
    return "\n\n".join(blocks)


def _table(
    head: str,
    rows: dict[str, dict[str, Any]],
    total: int | dict[str, int],
    published: dict[str, dict[str, float]] | None = None,
) -> str:
    """Formats one line per map, or one line per vote of one map, with Dynamic World's published figures in extra columns."""
    width = max(map(len, (head, *rows)))
    lines = [f"{head:{width}s}  {'mIoU':20s}  {'OA':20s}  {'macro F1':20s}   kappa  tiles  labelled pixels scored"]
    for name, row in rows.items():
        cells = []
        for key in _SHOWN:
            limits = " to ".join(_percent(limit) for limit in row["intervals"].get(key, ()))
            cells.append(f"{_percent(row[key]):>5s}" + (f" ({limits})" if limits else ""))
        labelled = total[name] if isinstance(total, dict) else total
        shares = f"{'  '.join(f'{cell:20s}' for cell in cells)}  {_percent(row['kappa']):>6s} {row['tiles']:6d}"
        lines.append(f"{name:{width}s}  {shares}  {row['labelled_pixels']:,d} of {labelled:,d}")
    if published is not None:
        length = max(map(len, lines))
        heads = ["| published:  mIoU     OA  macro F1"]
        heads += [
            f"|           {'  '.join(f'{_percent(published.get(vote, {}).get(key)):>5s}' for key in _SHOWN)}"
            for vote in rows
        ]
        lines = [f"{line:{length}s}  {beside}" for line, beside in zip(lines, heads, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def _pair_text(pair: dict[str, Any], classes: Sequence[str]) -> str:
    lines = [f"a = {pair['a']}, b = {pair['b']}"]
    if "agreement" in pair:
        lines[0] += f": one class on {_percent(pair['agreement'])} % of the pixels where both have one"
        matrix = np.array(pair["agreement_matrix"])
        width = max(22, *map(len, classes))
        heads = (re.split("[_ ]", name)[0][:7] for name in classes)
        lines.append(f"  {'% of pixels, rows = a':{width}s}" + "".join(f"{head:>8s}" for head in heads))
        for name, row in zip(classes, 100 * matrix / matrix.sum(), strict=True):
            lines.append(f"  {name:{width}s}" + "".join(f"{share:8.2f}" for share in row))
    for vote, difference in pair["difference"].items():
        for key, name in _SHOWN.items():
            figure = difference["figures"][key]
            line = f"  {vote}: {name} of a - b = {_percent(figure['difference'])}"
            if figure["interval"]:
                low, high = figure["interval"]
                line += f" (95 % interval: {_percent(low)} to {_percent(high)}, p {_p(figure['p_value'])})"
            lines.append(line)
        counts = difference["labelled_pixels"]
        if counts["a"] != counts["b"]:
            lines.append(
                f"  {vote}: scored on {difference['tiles']} tiles: {counts['a']:,d} labelled pixels of a, {counts['b']:,d} of b; "
                "to use the same pixels, give the network's maps (specsar_jax.evaluate --workdir ... --maps DIR) as --prediction"
            )
    for vote, test in pair.get("mcnemar", {}).items():
        lines.append(
            f"  {vote}: only a is right on {test['only_a_right']:,d} pixels, only b on {test['only_b_right']:,d}; "
            f"McNemar, {test['test']}, p {_p(test['p_value'])} if pixels were independent"
        )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _p(value: float) -> str:
    """Returns '= 0.03'; a value that rounds to 0 as a float is smaller than floats tell."""
    return f"= {value:.3g}" if value else "< 1e-300"
