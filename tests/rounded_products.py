"""Runs a function as an accelerator does that multiplies float32 matrices in fewer digits, on a CPU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

DIGITS = {"tpu": 8, "cuda": 11}
"""Binary digits of what JAX's default precision keeps of a float32 factor: bfloat16 on a TPU, TF32 on a GPU."""


def on_platform(function: Callable[..., Any], platform: str) -> Callable[..., Any]:
    """`function` in the forms that XLA takes for 'tpu' or 'cuda', with the factors of all matrix products and convolutions of default
    precision rounded as it rounds them; those of precision 'highest' are left as they are.
    """

    def run(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        outputs = _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), platform)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return jax.jit(run)


def _run(jaxpr: Any, constants: Any, arguments: Any, platform: str) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        given, of, name = [read(v) for v in equation.invars], equation.params, equation.primitive.name
        inner = of.get("jaxpr") or of.get("call_jaxpr")
        if name == "platform_index":
            names = [None if platforms is None else set(platforms) for platforms in of["platforms"]]
            place = next((i for i, known in enumerate(names) if known and platform in known), None)
            results = [names.index(None) if place is None else place]
        elif name == "cond":
            branch = of["branches"][given[0]]
            results = _run(branch.jaxpr, branch.consts, given[1:], platform)
        elif inner is not None and name != "scan":
            closed = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            results = _run(*closed, given, platform)
        else:
            if name in ("dot_general", "conv_general_dilated") and not _exact(of["precision"]):
                given = [_rounded(x, DIGITS[platform]) for x in given]
            results = equation.primitive.bind(*given, **of)
            results = results if equation.primitive.multiple_results else [results]
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _exact(precision: Any) -> bool:
    return precision is not None and all(of == jax.lax.Precision.HIGHEST for of in precision)


def _rounded(x: Any, digits: int) -> Any:
    if x.dtype != jnp.float32:
        return x
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=digits - 1)
