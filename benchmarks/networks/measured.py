"""The networks that are measured, ready to be built into programs: this project's, and transformers' SegFormer."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np


@dataclasses.dataclass(frozen=True)
class Program:
    """Something to time."""

    run: Callable[[], Any]
    """One call; returns when its results are there."""
    compile_s: float | None = None
    gflop: float | None = None
    value: Any = None
    """What other formulations of the same network must give."""
    compiled: Any = None


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that is ready to be built into programs."""

    device: str
    parameters: int
    init_s: float
    build: dict[str, Callable[[], Program]]
    """By kind."""
    matmul: Callable[[int], Callable[[], Any]]
    """Side of two square matrices -> their product, in the type of the case."""
    device_memory: Callable[[], int] | None
    """Peak bytes in use; None where it is the process's memory."""


def specsar_former(case: dict[str, Any]) -> Network:
    """This project's network."""
    import jax  # here, for PyTorch's processes shall not hold it in their memory
    import jax.numpy as jnp

    from specsar_jax import config as configs
    from specsar_jax.batches.preprocess import SensorStatistics, Statistics, standardise
    from specsar_jax.network import model, resizing
    from specsar_jax.training import losses, train_state

    if case["form"] == "plain":
        from networks.plain import write_plainly

        write_plainly()
    fields = {"compute_dtype": case["type"]} | ({"loop_blocks_from": 99} if case["form"] == "plain" else {})
    config = configs.Config(model=configs.model_preset(case["preset"], **fields))
    device = jax.devices()[0]
    started = time.perf_counter()
    jax.block_until_ready(model.init_params(config.model, jax.random.key(0)))
    init_s = time.perf_counter() - started

    rng, shape = np.random.default_rng(0), (case["batch"], case["size_px"], case["size_px"])

    def sensor(count: int, low: float, high: float) -> SensorStatistics:
        bands, mean, std = tuple(map(str, range(count))), (low + high) / 2, (high - low) / 4
        return SensorStatistics(bands, *((v,) * count for v in (mean, std, low, high)), "", (1,) * count)

    statistics = Statistics(
        sensor(config.model.s2_channels, 1, 10_000), sensor(config.model.s1_channels, -30, 0), (1,) * 9
    )
    batch = {
        "s2": rng.integers(1, 10_000, (*shape, config.model.s2_channels), np.uint16),
        "s1": rng.uniform(-30, 0, (*shape, config.model.s1_channels)).astype(np.float32),
        "label": rng.integers(0, config.model.classes, shape, np.uint8),
        "expert": np.ones(case["batch"], bool),
    }
    batch = jax.device_put(batch)
    s2, s1 = jax.jit(lambda s2, s1: standardise(s2, s1, statistics))(batch["s2"], batch["s1"])
    alpha = (1.0,) * config.model.classes
    state = train_state.init_state(config)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Without zeros, so that two formulations cannot agree by leaving something out.
    variables = jax.tree.map(
        lambda leaf: leaf + 0.02 * rng.standard_normal(leaf.shape, np.float32), state.variables(config)
    )

    def forward(variables: Any, s2: Any, s1: Any) -> Any:
        return model.apply(variables, s2, s1, config=config.model)

    def gradient(params: Any, batch_stats: Any, s2: Any, s1: Any, label: Any) -> Any:
        def loss(params: Any) -> Any:
            tree = {"params": params, "batch_stats": batch_stats}
            logits, _ = model.apply_train(tree, s2, s1, config=config.model, rng=jax.random.key(0))
            return losses.pixel_loss(logits, label, alpha, config=configs.Loss(name="cross_entropy"))

        return jax.value_and_grad(loss)(params)

    def step(state: Any, batch: Any) -> Any:
        return train_state.train_step(state, batch, config=config, statistics=statistics, alpha=alpha)

    def build(function: Callable[..., Any], arguments: tuple[Any, ...], value: Any = None, **options: Any) -> Program:
        nonlocal config
        # Of a loop, one turn would be counted.
        looped, config = (
            config,
            dataclasses.replace(config, model=dataclasses.replace(config.model, loop_blocks_from=99)),
        )
        with mock.patch.multiple(resizing, _join_rows=resizing._join_whole), layers_one_by_one():
            gflop = jax.jit(function).lower(*arguments).cost_analysis()["flops"] / 1e9
        config = looped
        jax.clear_caches()  # of traces: the compilation is to begin at nothing
        started = time.perf_counter()
        compiled = jax.jit(function, **options).lower(*arguments).compile()
        compile_s = time.perf_counter() - started

        def run() -> Any:
            return jax.block_until_ready(compiled(*arguments))

        return Program(run, compile_s, gflop, value and value(run()), compiled)

    def build_forward() -> Program:
        return build(forward, (model.for_inference(variables, config.model), s2, s1), np.asarray)

    def build_gradient() -> Program:
        def norms(outputs: Any) -> np.ndarray:
            return np.asarray([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(outputs)])

        return build(gradient, (variables["params"], variables["batch_stats"], s2, s1, batch["label"]), norms)

    def build_step() -> Program:
        program, carried = build(step, (state, batch), donate_argnums=0), [state]

        def run() -> None:
            carried[0], _ = jax.block_until_ready(program.compiled(carried[0], batch))

        return dataclasses.replace(program, run=run)

    def matmul(side: int) -> Callable[[], Any]:
        matrix, product = jnp.ones((side, side), case["type"]), jax.jit(lambda a: a @ a)
        return lambda: product(matrix).block_until_ready()

    memory = None if device.platform == "cpu" else lambda: device.memory_stats()["peak_bytes_in_use"]
    builders = {"forward": build_forward, "gradient": build_gradient, "step": build_step}
    return Network(f"{device.platform}: {device.device_kind}", parameters, init_s, builders, matmul, memory)


def layers_one_by_one() -> contextlib.ExitStack:
    """While it lasts, programs for a CPU have no loops over parts of a map or of a batch either."""
    from specsar_jax.network import layers, on_cpu

    def other(cpu: Any, other: Callable[..., Any], train: bool, *arguments: Any) -> Any:
        del cpu, train
        return other(*arguments)

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(layers, "forward_form", other))
    stack.enter_context(mock.patch.object(on_cpu, "PIXELS_AT_ONCE", 2**60))
    return stack


def segformer(case: dict[str, Any]) -> Network:
    """SegFormer-B2 of transformers over both sensors' bands, without dropout, as this project's network has none."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")  # on a GPU, what JAX does by default
    if case["on_cpu"] is False and not torch.cuda.is_available():
        raise RuntimeError("skipped, for this PyTorch sees no such device")
    device = torch.device("cpu" if case["on_cpu"] else "cuda")
    sizes = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
    started = time.perf_counter()
    network = SegformerForSemanticSegmentation(
        SegformerConfig(num_channels=11, num_labels=9, classifier_dropout_prob=0.0, drop_path_rate=0.0, **sizes)
    ).to(device)
    init_s = time.perf_counter() - started
    side = case["size_px"]
    bands = torch.randn(case["batch"], 11, side, side, device=device)
    label = torch.randint(0, 9, (case["batch"], side, side), device=device)
    narrow = torch.autocast(device.type, torch.bfloat16, enabled=case["type"] == "bfloat16")

    def logits(bands: Any) -> Any:
        small = network(pixel_values=bands).logits
        return torch.nn.functional.interpolate(small.float(), size=(side, side), mode="bilinear", align_corners=False)

    full_size = torch.compile(logits) if case["form"] == "compiled" else logits

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def forward(function: Callable[[Any], Any]) -> None:
        network.eval()
        with torch.inference_mode(), narrow:
            function(bands)
        wait()

    def gradient(function: Callable[[Any], Any]) -> None:
        network.train()
        network.zero_grad()
        with narrow:
            loss = torch.nn.functional.cross_entropy(function(bands), label)
        loss.backward()
        wait()

    def build(kind: Callable[[Any], None]) -> Program:
        gflop = None
        if kind is forward:  # PyTorch 2.13 counts the gradients of grouped convolutions as if they were whole ones
            with FlopCounterMode(display=False) as counter:
                kind(logits)
            gflop = counter.get_total_flops() / 1e9
        started = time.perf_counter()
        kind(full_size)
        compile_s = time.perf_counter() - started if case["form"] == "compiled" else None
        return Program(lambda: kind(full_size), compile_s, gflop)

    def matmul(side: int) -> Callable[[], Any]:
        matrix = torch.ones(side, side, dtype=getattr(torch, case["type"]), device=device)

        def run() -> None:
            matrix @ matrix
            wait()

        return run

    builders = {"forward": lambda: build(forward), "gradient": lambda: build(gradient)}
    parameters = sum(leaf.numel() for leaf in network.parameters())
    memory = torch.cuda.max_memory_allocated if device.type == "cuda" else None
    return Network(str(device), parameters, init_s, builders, matmul, memory)
