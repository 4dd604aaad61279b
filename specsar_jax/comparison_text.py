"""The comparison of maps for people: tables of plain text.

Enters: the figures of `compare.summarise`, as `comparison_<split>.json` has them. Leaves: text.
"""

from typing import Any

import numpy as np

from specsar_jax import legends, metrics
from tfds_dwplus import bands

_SHOWN = {"mean_iou": "mIoU", "overall_accuracy": "OA", "macro_f1": "macro F1"}


def text(figures: dict[str, Any]) -> str:
    """The figures of `summarise` for people."""
    blocks = []
    for name, row in figures["maps"].items():
        if row["legend"]:
            pixels = {int(code): of["pixels"] for code, of in row["codes"].items()}
            lines = [f"{name}: {legends.table(legends.find(row['legend']), pixels)}"]
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
    blocks += [_pair_text(pair) for pair in figures["pairs"]]
    return "\n\n".join(blocks)


def _table(
    head: str,
    rows: dict[str, dict[str, Any]],
    total: int | dict[str, int],
    published: dict[str, dict[str, float]] | None = None,
) -> str:
    """A line a map, or of one map a line a vote with the published figures of Dynamic World in columns of their own."""
    width = max(map(len, (head, *rows)))
    lines = [f"{head:{width}s}  {'mIoU':20s}  {'OA':20s}  {'macro F1':20s}   kappa  tiles  labelled pixels scored"]
    for name, of in rows.items():
        cells = []
        for key in _SHOWN:
            limits = " to ".join(_percent(limit) for limit in of["intervals"].get(key, ()))
            cells.append(f"{_percent(of[key]):>5s}" + (f" ({limits})" if limits else ""))
        of_all = total[name] if isinstance(total, dict) else total
        shares = f"{'  '.join(f'{cell:20s}' for cell in cells)}  {_percent(of['kappa']):>6s} {of['tiles']:6d}"
        lines.append(f"{name:{width}s}  {shares}  {of['labelled_pixels']:,d} of {of_all:,d}")
    if published is not None:
        length = max(map(len, lines))
        heads = ["| published:  mIoU     OA  macro F1"]
        heads += [
            f"|           {'  '.join(f'{_percent(published.get(vote, {}).get(key)):>5s}' for key in _SHOWN)}"
            for vote in rows
        ]
        lines = [f"{line:{length}s}  {beside}" for line, beside in zip(lines, heads, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def _pair_text(pair: dict[str, Any]) -> str:
    lines = [f"a = {pair['a']}, b = {pair['b']}"]
    if "agreement" in pair:
        lines[0] += f": one class on {_percent(pair['agreement'])} % of the pixels where both have one"
        matrix = np.array(pair["agreement_matrix"])
        lines.append(
            f"  {'% of pixels, rows = a':22s}" + "".join(f"{name.split('_')[0]:>8s}" for name in bands.CLASSES)
        )
        for name, row in zip(bands.CLASSES, 100 * matrix / matrix.sum(), strict=True):
            lines.append(f"  {name:22s}" + "".join(f"{share:8.2f}" for share in row))
    for vote, of in pair["difference"].items():
        for key, name in _SHOWN.items():
            figure = of["figures"][key]
            line = f"  {vote}: {name} of a - b = {_percent(figure['difference'])}"
            if figure["interval"]:
                low, high = figure["interval"]
                line += f" (95 % of draws of tiles: {_percent(low)} to {_percent(high)}, p = {figure['p_value']:.3g})"
            lines.append(line)
        counts = of["labelled_pixels"]
        if counts["a"] != counts["b"]:
            lines.append(
                f"  {vote}: of a {counts['a']:,d} and of b {counts['b']:,d} labelled pixels of {of['tiles']} tiles were scored; "
                "for the same of both, give the network's maps (specsar_jax.evaluate --workdir ... --maps DIR) as --prediction"
            )
    for vote, test in pair.get("mcnemar", {}).items():
        lines.append(
            f"  {vote}: a alone is right on {test['only_a_right']:,d} pixels, b alone on {test['only_b_right']:,d}; McNemar, {test['test']}, "
            f"p = {test['p_value']:.3g} if pixels were independent"
        )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
