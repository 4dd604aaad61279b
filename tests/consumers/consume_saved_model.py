"""What a stranger writes who has TensorFlow and a SavedModel: pixels in an .npz in, probabilities and classes in another out.

    python consume_saved_model.py specsar_saved_model tile.npz out.npz

Imports nothing of ours; a test runs it in a process of its own.
"""

import sys

import numpy as np
import tensorflow as tf

folder, tile, output = sys.argv[1:]
network = tf.saved_model.load(folder).signatures["serving_default"]
results = {}
with np.load(tile) as pixels:
    for size in ("odd", "even"):
        arrays = {
            sensor: tf.constant(pixels[f"{size}_{sensor}"]) for sensor in ("s2", "s1") if f"{size}_{sensor}" in pixels
        }
        maps = network(**arrays)
        results |= {f"{size}_{name}": maps[name].numpy() for name in ("probabilities", "classes")}
np.savez(output, **results)
