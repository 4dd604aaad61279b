"""Exports: a trained network in, files for other software out. The command is `specsar_jax.export`.

`stablehlo.py` writes a program for JAX, `saved_model.py` one for TensorFlow, and `onnx_graph.py` one for ONNX runtimes,
with the network of `onnx_specsar_former.py` or `onnx_dynamic_world.py`, from the nodes of `onnx_nodes.py`. These programs
take digital numbers and dB and return probabilities and classes. `model_card.py` writes the page that goes with every
export. `torch_model/` loads an exported bundle into PyTorch; it is a folder that imports nothing of the rest of this
package, so that it can be copied elsewhere. Start with `stablehlo.py`, the shortest of them.
"""
