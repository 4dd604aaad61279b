"""What `cut` tells of its work: notes on labels that are in no tile, and the shares of the classes of each split. Pure."""

from tfds_dwplus import bands
from tfds_dwplus.vectors.cutting import Labels, Summary, Survey


def survey_lines(found: Survey, labels: Labels, gap_m: float) -> list[str]:
    """Returns lines on labels that will be in no tile."""
    names, total = labels.classes.names, len(labels.class_id)
    lines = []
    if outside := total - len(found.seen):
        lines.append(f"{outside} of {total} features with a class lie outside of the scenes")
    if found.overlaps:
        (one, other), _ = found.overlaps.most_common(1)[0]
        lines.append(
            f"{sum(found.overlaps.values()):,} pixels, {found.overlap_m2 / 1e4:,.2f} ha, are of two classes, most of them of {names[one]} "
            f"and {names[other]}, and have no label"
        )
    if found.without_pixel:
        lines.append(
            f"{found.without_pixel} features are so small that they cover the centre of no pixel, and are in no label"
        )
    if found.in_gaps:
        share = found.in_gaps / (found.in_gaps + sum(int(each.sum()) for each in found.pixels.values()))
        lines.append(
            f"{found.in_gaps:,} labelled pixels, {share:.1%}, lie between blocks, and are in no tile (--gap_m {gap_m:g})"
        )
    return lines


def summary_lines(summary: Summary, classes: bands.Classes) -> list[str]:
    """Returns lines on what was met while tiles were cut, and on classes that a split lacks."""
    lines = list(summary.notes)
    if summary.unseen:
        lines.append(f"{summary.unseen:,} labelled pixels are seen by no sensor or clouded, and have no label")
    if summary.left_out:
        lines.append(f"{summary.left_out} tiles are left out, in which a band has no data at all")
    total = sum(summary.pixels.values())
    if absent := [name for name, count in zip(classes.names, total, strict=True) if not count]:
        lines.append(f"no pixel is labelled {', '.join(absent)}")
    for split, counts in summary.pixels.items():
        there = zip(classes.names, counts, total, strict=True)
        if lacking := [name for name, count, of_all in there if of_all and not count]:
            lines.append(
                f"split {split} has no pixel of {', '.join(lacking)}, in too few blocks; smaller ones (--block_m) are more"
            )
    return lines


def split_table(summary: Summary, classes: bands.Classes) -> str:
    """Formats the shares of the classes of each split, percent of its labelled pixels, as Markdown."""
    total = sum(summary.pixels.values())
    columns = {**summary.pixels, "all": total}
    rows = [("class", *columns), ("---", *("---:" for _ in columns))]
    for place, name in enumerate(classes.names):
        rows.append((name, *(f"{100 * each[place] / max(each.sum(), 1):.1f} %" for each in columns.values())))
    rows.append(("labelled pixels", *(f"{each.sum():,}" for each in columns.values())))
    rows.append(("share of them", *(f"{100 * each.sum() / total.sum():.1f} %" for each in columns.values())))
    tiles = [sum(record.split == name for record in summary.records) for name in summary.pixels]
    for what, numbers in (("tiles", tiles), ("blocks", summary.blocks.values())):
        rows.append((what, *(f"{number:,}" for number in (*numbers, sum(numbers)))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
