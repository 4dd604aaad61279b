"""The second colours of classes: how far apart they are to readers who tell fewer colours apart, by colorspacious, and how like the first."""

import re
from pathlib import Path

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE
from drawn_networks import many
from own_classes import FOUR

from specsar_jax.pages import palettes
from tfds_dwplus import bands

WORLD_COVER = bands.Classes(
    tuple(f"class {place}" for place in range(11)),
    (
        *("006400", "ffbb22", "ffff4c", "f096ff", "fa0000", "b4b4b4"),
        *("f0f0f0", "0064c8", "0096a0", "00cf75", "fae6a0"),
    ),
)
"""Eleven colours of ESA WorldCover, which many maps have."""


@pytest.mark.parametrize(
    "classes, least, own", [(bands.DYNAMIC_WORLD, 16, 5), (FOUR, 18, 6), (WORLD_COVER, 10, 2), (many(12), 9, 2)]
)
def test_colours_are_apart_to_every_reader(classes, least, own):
    assert apart(palettes.safe_colours(classes)) > least
    assert apart(classes.colours) < own


def test_runs_and_steps_of_the_report_are_apart_to_every_reader():
    css = (Path(palettes.__file__).parent / "report.css").read_text()
    for letter, number, least in (("r", 6, 16), ("s", 5, 11)):
        colours = re.findall(rf"--{letter}\d: #(\w{{6}});", css)
        assert len(colours) == 2 * number  # on light and on dark paper
        assert apart(colours[:number]) > least and apart(colours[number:]) > least


def test_colours_hint_at_the_meaning():
    """Water is blue, grass green, built red, snow nearly white, and trees darker than grass."""
    rgb = dict(zip(bands.CLASSES, map(bytes.fromhex, palettes.safe_colours(bands.DYNAMIC_WORLD)), strict=True))
    assert [max(range(3), key=rgb[name].__getitem__) for name in ("built", "grass", "trees", "water")] == [0, 1, 1, 2]
    assert min(rgb["snow_and_ice"]) > 220
    assert sum(rgb["trees"]) < sum(rgb["grass"]) / 2


def test_colours_that_are_apart_stay():
    classes = bands.Classes(("a", "b", "c"), ("e69f00", "0072b2", "000000"))
    assert palettes.safe_colours(classes) == classes.colours


def test_some_of_the_classes_of_dynamic_world_keep_their_colours():
    some = bands.Classes(("built", "water"), ("aaaaaa", "bbbbbb"))
    assert palettes.safe_colours(some) == (palettes.SAFE_COLOURS[6], palettes.SAFE_COLOURS[0])


@pytest.mark.parametrize("number", [2, 24, 64])
def test_any_number_of_classes_gets_colours_of_their_own(number):
    alike = bands.Classes(many(number).names, ("808080",) * number)
    for classes in (many(number), alike):
        colours = palettes.safe_colours(classes)
        bands.Classes(classes.names, colours)  # raises unless there are as many, hexadecimal
        assert len(set(colours)) == number
    assert palettes.safe_colours(alike) == palettes.safe_colours(alike)


def apart(colours: tuple[str, ...]) -> float:
    """The least difference of two colours (CAM02-UCS) to a reader with all cones, or without the long, middle or short ones."""
    rgb = np.array([list(bytes.fromhex(colour)) for colour in colours]) / 255
    first, second = np.triu_indices(len(colours), 1)
    found = [deltaE(rgb[first], rgb[second], input_space="sRGB1").min()]
    for kind in ("protanomaly", "deuteranomaly", "tritanomaly"):
        sight = {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}
        seen = np.clip(cspace_convert(rgb, sight, "sRGB1"), 0, 1)
        found.append(deltaE(seen[first], seen[second], input_space="sRGB1").min())
    return float(min(found))
