"""Which tile goes where: by place, not by chance of the folder."""

import numpy as np
import pytest

from tfds_dwplus.tiles.splits import NEIGHBOURS_KM, cut_validation, shuffled, subset
from tfds_dwplus.tiles.tile_files import TileRecord


def world(count: int = 600, seed: int = 0) -> list[TileRecord]:
    """Tiles in clumps of three, four kilometres apart; every clump somewhere else."""
    rng = np.random.default_rng(seed)
    records = []
    for clump in range(count // 3):
        lon, lat = rng.uniform(-179, 179), rng.uniform(-60, 60)
        for place in range(3):
            records.append(TileRecord(f"t{clump:03d}_{place}", "train", lon, lat + 0.036 * place, annotator="expert"))
    return records


def kilometres(one: TileRecord, other: TileRecord) -> float:
    lon, lat, lon2, lat2 = np.radians([one.lon, one.lat, other.lon, other.lat])
    half = np.sin((lat2 - lat) / 2) ** 2 + np.cos(lat) * np.cos(lat2) * np.sin((lon2 - lon) / 2) ** 2
    return 2 * 6371 * np.arcsin(np.sqrt(half))


def test_neighbours_stay_together_and_the_share_is_about_right():
    records = world()
    splits = cut_validation(records, 0.2, 0)
    assert splits.keys() == {record.tile_id for record in records}
    share = list(splits.values()).count("validation") / len(splits)
    assert 0.12 < share < 0.28
    sides = {side: [r for r in records if splits[r.tile_id] == side] for side in ("train", "validation")}
    nearest = min(kilometres(one, other) for one in sides["validation"] for other in sides["train"])
    assert nearest > NEIGHBOURS_KM


def test_a_line_of_tiles_over_the_edge_of_a_cell_stays_together():
    line = [TileRecord(f"a{n}", "train", 9.8 + 0.05 * n, 0.5) for n in range(9)]  # 5.6 km steps, over 10 degrees east
    far = [TileRecord(f"b{n}", "train", 20.0 + 3 * n, 0.5) for n in range(40)]
    for seed in range(5):
        splits = cut_validation(line + far, 0.5, seed)
        assert len({splits[record.tile_id] for record in line}) == 1


def test_a_tile_keeps_its_side_whatever_else_is_there_and_another_seed_gives_another_cut():
    records = world()
    splits = cut_validation(records, 0.3, 0)
    fewer = cut_validation(records[:300], 0.3, 0)
    assert fewer == {tile_id: splits[tile_id] for tile_id in fewer}
    assert cut_validation(records[::-1], 0.3, 0) == splits != cut_validation(records, 0.3, 1)


def test_only_train_is_cut():
    held_out = [TileRecord("test", "test", 1.0, 1.0)]
    assert "test" not in cut_validation(world() + held_out, 0.3, 0)


@pytest.mark.parametrize(
    ("records", "fraction", "message"),
    [
        (world(), 1.5, "between 0 and 1"),
        ([*world(), TileRecord("v", "validation", 1.0, 1.0)], 0.2, "has a split 'validation'"),
        ([TileRecord("a", "train")], 0.2, "no lon and lat"),
        ([TileRecord("a", "train", 1.0, 1.0)], 0.2, "only; give another fraction"),
    ],
)
def test_cuts_that_cannot_be_made_are_refused(records, fraction, message):
    with pytest.raises(ValueError, match=message):
        cut_validation(records, fraction, 0)


def test_subsets():
    records = [
        TileRecord("a", "train", annotator="expert", hemisphere="EH", biome=1),
        TileRecord("b", "train", annotator="non_expert", hemisphere="EH", biome=4),
        TileRecord("c", "train", annotator="expert", hemisphere="WH", biome=4),
        TileRecord("d", "test", annotator="held_out", hemisphere="WH", biome=1),
    ]

    def ids(*options) -> str:
        return "".join(record.tile_id for record in subset(records, *options))

    assert ids((), (), ()) == "abcd"
    assert ids(("expert",), (), ()) == "acd"  # the held-out tiles have no one annotator
    assert ids((), ("WH",), ()) == "cd" and ids((), (), (4,)) == "bc"
    assert ids(("expert",), ("EH",), (1,)) == "a"
    with pytest.raises(ValueError, match="--biomes 9: no tile has it"):
        subset(records, (), (), (9,))
    with pytest.raises(ValueError, match="no tile is of all"):
        subset(records[:2], ("expert",), (), (4,))


def test_order_is_shuffled_and_always_the_same():
    records = world(60)
    once = shuffled(records, "train")
    assert once == shuffled(records[::-1], "train") != records
    assert once != shuffled(records, "test") and set(once) == set(records)
