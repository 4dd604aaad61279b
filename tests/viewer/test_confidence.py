"""How sure the network was: pixels that are faded, a class as a heat map, and rasters that are refused."""

import numpy as np
import pytest
from shown_maps import FIRST, opened, write_codes
from shown_maps import both as both
from shown_maps import made as made
from test_two_maps import colours

from specsar_jax.viewer.confidence import RAMP
from specsar_jax.viewer.shown import Drawing
from tfds_dwplus.bands import CLASS_COLOURS

# rasterio 1.4 multiplies transforms in a way that affine 3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

TREES, BUILT = (f"#{CLASS_COLOURS[place]}" for place in (1, 6))


@pytest.mark.parametrize("given", [{"confidence": "confidence.tif"}, {"probabilities": "shares.tif"}])
def test_pixels_that_it_was_not_sure_of_are_faded(made, given):
    """The eastern half of what is built, at 11 %; the rest at 80 %."""
    with opened(made, FIRST, **given) as shown:
        assert colours(shown, "map").keys() == {"", TREES, BUILT}
        drawn = colours(shown, "map", Drawing(sure=0.5))
        assert drawn.keys() == {"", TREES, BUILT, f"{BUILT} faint"}
        assert drawn[f"{BUILT} faint"] == pytest.approx(drawn[BUILT], rel=0.1)
        assert colours(shown, "map", Drawing(sure=0.8)) == drawn  # 80 % is not less than that
        assert shown.areas(shown.bounds, 0.5)["unsure"] == pytest.approx(100 * 10 / 35, abs=0.5)
        assert shown.areas(shown.bounds, 0.9)["unsure"] == pytest.approx(100)


def test_a_class_as_a_heat_map(both):
    drawn = colours(both, "heat", Drawing(class_id=1))
    assert "" in drawn and len(drawn) == 4  # nothing, 80 %, 11 % and 2.5 %
    most = max(drawn, key=lambda colour: int(colour[1:3] or "0", 16) if colour else -1)  # the ramp's red grows
    assert most == pytest.approx(RAMP[6], abs=0) or int(most[1:3], 16) > int(RAMP[5][1:3], 16)


def test_second_colours_and_hidden_classes(both):
    safe = both.maps[0].safe
    assert colours(both, "map", Drawing(safe=True)).keys() == {"", f"#{safe[1]}", f"#{safe[6]}"}
    assert colours(both, "map", Drawing(hidden=1 << 6)).keys() == {"", TREES}


def test_other_rasters_are_refused(made, tmp_path):
    write_codes(tmp_path / "codes.tif", np.full((40, 30), 80, np.uint8))
    write_codes(tmp_path / "coarse.tif", np.full((20, 15), 80, np.uint8), 20)
    for file, message in (
        (tmp_path / "codes.tif", "codes.tif holds 80, expected shares of 0 to 1"),
        (tmp_path / "coarse.tif", "coarse.tif is not on the grid of .*map.tif; give the confidence that was written"),
        (made / "shares.tif", "shares.tif holds 9 bands, expected one, of the mapped class's probability"),
    ):
        with pytest.raises(ValueError, match=message), opened(made, FIRST, confidence=str(file)):
            pass
