"""What a stranger writes who has JAX and an exported program: pixels in an .npz in, probabilities and classes in another out.

    python consume_stablehlo.py specsar.stablehlo tile.npz out.npz [specsar.safetensors]

Imports nothing of ours; a test runs it in a process of its own.
"""

import sys
from pathlib import Path

import jax.export
import numpy as np

program, tile, output, *weights = sys.argv[1:]
exported = jax.export.deserialize(bytearray(Path(program).read_bytes()))
assert exported.platforms == ("cpu", "cuda", "tpu")
first = []
if weights:
    import safetensors.numpy

    first = [safetensors.numpy.load_file(weights[0])]
results = {}
with np.load(tile) as pixels:
    for size in ("odd", "even"):
        arrays = [pixels[f"{size}_{sensor}"] for sensor in ("s2", "s1") if f"{size}_{sensor}" in pixels]
        probabilities, classes = exported.call(*first, *arrays)
        results |= {f"{size}_probabilities": np.asarray(probabilities), f"{size}_classes": np.asarray(classes)}
np.savez(output, **results)
