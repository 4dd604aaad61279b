"""The network in PyTorch, with the weights of an exported bundle: to run it, or to go on training it.

    network = torch_model.load("specsar.safetensors")      # an nn.Module, in eval mode
    logits = network(s2, s1)                               # digital numbers and dB in, [batch, band, height, width]
    probabilities = network.probabilities(s2, s1)          # at the calibrated temperature
    network.train(); ...; torch_model.save(network, "tuned.safetensors")

This folder needs torch, numpy and safetensors, but neither JAX nor the rest of this package: it may be copied
elsewhere. `network.bands` are the bands in their order, `network.classes` the names of the classes,
`network.class_colours` their colours, hexadecimal red, green, blue. In `train()`, BatchNorm uses the moments of the
batch, and dropout and stochastic depth are as in the config of the bundle (`network.config`).

`bundle_files.py` reads and writes bundles. `pixels.py` is what both networks share: from pixels to scaled numbers, and
from logits to probabilities. `specsar_former.py` and `dynamic_world.py` are the networks of `specsar_jax/network`, module
by module and under the names of the bundle.
"""

from .bundle_files import load, save
from .dynamic_world import DynamicWorld
from .specsar_former import SpecSARFormer

__all__ = ["DynamicWorld", "SpecSARFormer", "load", "save"]
