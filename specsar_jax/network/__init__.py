"""The network: standardised Sentinel-2 and Sentinel-1 tiles in, logits or class probabilities out.

Start with `model.py`: the pure functions `init_params`, `apply` and `apply_train`. It builds on `encoder.py` and
`decoder.py`, the flax modules that hold the weights, and on the functions of `layers.py`, `resizing.py` and
`attention.py`, which do the computing, or of `on_cpu.py`, in a forward pass on a CPU. `probabilities.py` turns logits into class
probabilities; `segformer.py` loads initial weights from public SegFormer files. Nothing outside this folder imports flax.
"""
