"""The weights of a network as files name them: their names and shapes, and the tree that they make.

Enters: the sizes of a network. Leaves: what `network.model.abstract_params` gives, without JAX: tracing the network for its shapes took
longer than reading the weights. `tests/trained/test_weights.py` holds both against each other. A tree is dicts in dicts, as
`init_params` makes it; its names are those in it, joined by dots, and stand in JAX's order, by key.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from specsar_jax.config import Model

Shape = tuple[int, ...]


def named_weights(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weights, or their shapes, by their names in a file, such as 'params.stage1.spectral_embed.kernel'."""
    return dict(_leaves(variables, ()))


def unnamed(weights: Mapping[str, Any], config: Model) -> dict[str, Any]:
    """Returns the tree of weights from weights by name; the inverse of `named_weights`."""
    tree: dict[str, Any] = {}
    for name in shapes(config):
        *inside, last = name.split(".")
        part = tree
        for key in inside:
            part = part.setdefault(key, {})
        part[last] = weights[name]
    return tree


@functools.lru_cache(maxsize=8)
def shapes(config: Model) -> Mapping[str, Shape]:
    """Returns the shape of each weight of a network by its name; all are float32."""
    if config.architecture == "dynamic_world":
        from specsar_jax.network import dynamic_world  # JAX comes with it, which the others need not wait for

        tree = dynamic_world.abstract_params(config)
        return {name: leaf.shape for name, leaf in named_weights(tree).items()}
    width = config.decoder_width
    decoder: dict[str, Any] = {"classify_kernel": (width, config.classes), "classify_bias": (config.classes,)}
    decoder["norm"] = _norm(width)
    params: dict[str, Any] = {"decoder": decoder}
    given = {"both": (config.s2_channels, config.s1_channels), "spectral": (config.s2_channels,)}
    given |= {"sar": (config.s1_channels,), "stacked": (config.s2_channels + config.s1_channels,)}
    before = given[config.branches]
    for stage, joined in enumerate(config.widths):
        widths, number = config.branch_widths(stage), stage + 1
        params[f"stage{number}"] = _stage(config, stage, before, widths)
        features = widths[0]
        if len(widths) == 2:
            params[f"mmam{number}"] = _aggregation(config, joined, widths)
            features = joined
        decoder[f"join{number}_kernel"] = (width, width)
        decoder[f"project{number}_kernel"], decoder[f"project{number}_bias"] = (features, width), (width,)
        before = widths
    moments = {"decoder": {"norm": {"mean": (width,), "var": (width,)}}}
    return named_weights({"batch_stats": moments, "params": params})


def _stage(config: Model, stage: int, before: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, Any]:
    """Shapes of a stage: of its blocks together, with an axis for the blocks before all others, and of what is around them."""
    side = 7 if stage == 0 else 3
    block: dict[str, Any] = {}
    around: dict[str, Any] = {}
    for name, channels, width, other in zip(config.branch_names, before, widths, widths[::-1], strict=True):
        around[f"{name}_embed"] = {"kernel": (side, side, channels, width), "bias": (width,)}
        around[f"{name}_embed_norm"] = around[f"{name}_norm"] = _norm(width)
        attended = {"self": width} | ({"cross": other} if len(widths) == 2 and config.cross_attention else {})
        for kind, context in attended.items():
            block[f"{name}_{kind}_norm"] = _norm(width)
            block[f"{name}_{kind}"] = _attention(width, context, config.reductions[stage])
        hidden = width * config.mlp_ratio
        block[f"{name}_ffn_norm"] = _norm(width)
        block[f"{name}_ffn"] = {"expand": _dense(width, hidden), "project": _dense(hidden, width)}
        block[f"{name}_ffn"]["depthwise"] = {"kernel": (3, 3, hidden), "bias": (hidden,)}
    count = config.blocks[stage]
    return around | {"blocks": {name: _stacked(of, count) for name, of in block.items()}}


def _attention(width: int, context: int, reduction: int) -> dict[str, Any]:
    of = {"query": _dense(width, width), "key_value": _dense(context, 2 * width), "output": _dense(width, width)}
    if reduction > 1:
        of["reduce"] = {"kernel": (reduction, reduction, context, context), "bias": (context,)}
        of["reduce_norm"] = _norm(context)
    return of


def _aggregation(config: Model, joined: int, widths: tuple[int, ...]) -> dict[str, Any]:
    of = {"join": _dense(sum(widths), joined)}
    if config.channel_reweighting:
        hidden = config.mmam_ratio * joined
        for name, width in zip(config.branch_names, widths, strict=True):
            of |= {f"{name}_squeeze": _dense(sum(widths), hidden), f"{name}_gate": _dense(hidden, width)}
    return of


def _dense(given: int, width: int) -> dict[str, Shape]:
    return {"kernel": (given, width), "bias": (width,)}


def _norm(width: int) -> dict[str, Shape]:
    return {"scale": (width,), "bias": (width,)}


def _stacked(tree: Any, count: int) -> Any:
    return {key: _stacked(of, count) for key, of in tree.items()} if isinstance(tree, dict) else (count, *tree)


def _leaves(tree: Any, place: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        yield ".".join(place), tree
        return
    for key in sorted(tree):
        yield from _leaves(tree[key], (*place, key))
