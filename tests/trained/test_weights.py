"""Shapes of weights: what tracing the network gives, without tracing it."""

import dataclasses

import jax
import numpy as np
import pytest

from specsar_jax.config import PRESETS
from specsar_jax.network import model
from specsar_jax.trained import weights

OTHER_SIZES = {"widths": (40, 60), "blocks": (2, 1), "heads": (2, 5), "reductions": (1, 3), "decoder_width": 17}
CHANGES = {
    "as it is": {},
    "other sizes": OTHER_SIZES | {"mlp_ratio": 3, "mmam_ratio": 5, "classes": 4, "s2_channels": 5, "s1_channels": 1},
    "no gates": OTHER_SIZES | {"channel_reweighting": False, "cross_attention": False, "spectral_share": 0.5},
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_shapes_are_those_of_the_traced_network(preset, changes):
    config = PRESETS[preset]
    if config.architecture == "dynamic_world":  # of one size
        changes = {name: of for name, of in changes.items() if name in ("classes", "s2_channels")}
    config = dataclasses.replace(config, **changes)
    traced = model.abstract_params(config)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(traced))
    expected = {name: leaf.shape for name, leaf in weights.named_weights(traced).items()}
    assert weights.shapes(config) == expected and list(weights.shapes(config)) == list(expected)
    tree = weights.unnamed(expected, config)
    assert jax.tree.map(lambda leaf: leaf.shape, traced) == tree


def test_names_stand_in_the_order_of_jax():
    """The SHA-256 of a network is of its weights in this order."""
    tree = {"b": {"y": 1, "x": 2}, "a": {"z": {"c": 3}}, "B": {"x": 4}}
    assert list(weights.named_weights(tree).values()) == jax.tree.leaves(tree)
    names = [".".join(key.key for key in place) for place, _ in jax.tree.leaves_with_path(tree)]
    assert list(weights.named_weights(tree)) == names
