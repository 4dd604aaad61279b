"""What a compiled program moves: kernels, bytes of main memory and collectives, read from XLA's text of it.

A kernel is an instruction of the entry computation, or of what it calls, that runs on the device; one in a loop counts as often as
the loop turns. Its bytes are its operands and results. What only a slice is read of counts as the slice, what is updated in place as
the update; workspaces of cuBLAS and cuDNN (`s8` results), and on a TPU what lies in the chip's fast memory (`S(1)` of a layout), are
no traffic. Caches are not thought of: two kernels that read a map read it twice.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_FREE = frozenset(
    [
        "parameter",
        "constant",
        "iota",
        "get-tuple-element",
        "tuple",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
        "domain",
        "copy-done",
        "slice-done",
        "async-done",
        "async-update",
        "send-done",
        "recv-done",
        "add-dependency",
        "rng-get-and-update-state",
    ]
) | {f"{name}-done" for name in COLLECTIVES}
"""Instructions that run nothing, or that end what another one began."""

_CALLS = frozenset(("while", "call", "conditional", "async-start"))
_SLICES = frozenset(("slice", "dynamic-slice", "gather"))
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one run of a program, on one device."""

    kernels: int
    gigabytes: float
    """Of main memory, read and written."""
    products_gigabytes: float
    """The part of it that matrix products, convolutions and hand-written kernels move."""
    collectives: dict[str, int]
    """How many of each kind."""
    collective_megabytes: dict[str, float]
    """Results of the collectives, by kind."""
    collective_types: frozenset[str]
    """Types of what they combine."""


class _Instruction(NamedTuple):
    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    text: str
    is_root: bool


def traffic(text: str) -> Traffic:
    """Counts the program whose `jax.stages.Compiled.as_text()` this is."""
    computations, entry = _computations(text)
    kernels, moved, by_products = 0, 0, 0
    counts: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    types: set[str] = set()
    for times, instruction, by_name in _run(computations, entry, 1):
        kernels += times
        for part in (instruction, *_fused(instruction, computations).values()):  # a TPU fuses some with what follows
            kind = part.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                counts[kind] += times
                shape = _last_of_start(part)
                sizes[kind] += times * _bytes(shape.replace("S(1)", ""))
                types |= {match[1] for match in _ARRAY.finditer(shape)}
        bytes_moved = times * _moved(instruction, by_name, computations)
        moved += bytes_moved
        if _is_product(instruction, computations):
            by_products += bytes_moved
    megabytes = {name: size / 1e6 for name, size in sizes.items()}
    return Traffic(kernels, moved / 1e9, by_products / 1e9, dict(counts), megabytes, frozenset(types))


def products_flop(jaxpr: Any) -> float:
    """FLOP of the matrix products and convolutions of a `jax.core.Jaxpr`, those of loops as often as they turn; where there are forms
    for several platforms, of the costliest.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, of = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = of["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval, of["dimension_numbers"]
            total += 2.0 * equation.outvars[0].aval.size * kernel.size / kernel.shape[numbers.rhs_spec[0]]
        elif name == "cond":
            total += max(products_flop(branch.jaxpr) for branch in of["branches"])
        elif name == "pallas_call":
            total += of["cost_estimate"].flops
        else:
            # A device's part of a `shard_map` stands there once for all devices.
            turns = {"scan": of.get("length", 1), "shard_map": getattr(of.get("mesh"), "size", 1)}.get(name, 1)
            total += turns * sum(map(products_flop, _inner(of)))
    return total


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs within an equation of a jaxpr."""
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(getattr(item, "jaxpr", None), "eqns"):
                yield item.jaxpr


def _computations(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    """Instructions by name, of each computation by name; and the name of the entry."""
    computations: dict[str, dict[str, _Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if heading := _COMPUTATION.match(line):
            current = computations[heading[2]] = {}
            entry = heading[2] if heading[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, rest = found[2], found[3]
            shape, rest = _shape_and_rest(rest)
            opcode, _, arguments = rest.partition("(")
            operands = tuple(re.findall(r"%([\w.-]+)", _in_parentheses(arguments)))
            current[name] = _Instruction(name, opcode.strip(), shape, operands, rest, bool(found[1]))
    return computations, entry


def _shape_and_rest(text: str) -> tuple[str, str]:
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    inside = _in_parentheses(text[1:])
    return f"({inside})", text[len(inside) + 2 :].lstrip()


def _in_parentheses(text: str) -> str:
    """What stands before the parenthesis that closes."""
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return text[:place]
    return text


def _run(
    computations: dict[str, dict[str, _Instruction]], name: str, times: int
) -> Iterator[tuple[int, _Instruction, dict[str, _Instruction]]]:
    """Each kernel that a computation runs, how often, and the instructions around it."""
    by_name = computations[name]
    for instruction in by_name.values():
        if instruction.opcode in _FREE:
            continue
        if instruction.opcode not in _CALLS:
            yield times, instruction, by_name
            continue
        turns = 1
        if instruction.opcode == "while":
            turns = _turns(instruction, computations)
        called = re.findall(r"(?:body|to_apply|calls|called_computation)=%?([\w.-]+)", instruction.text)
        if branches := re.search(r"branch_computations=\{([^}]*)\}", instruction.text):
            called = [branch.strip().lstrip("%") for branch in branches[1].split(",")][:1]
        for callee in called:
            yield from _run(computations, callee, times * turns)


def _turns(loop: _Instruction, computations: dict[str, dict[str, _Instruction]]) -> int:
    """How often a loop turns: as XLA notes it for a GPU, else the number that its condition compares with."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text):
        return int(known[1])
    condition = computations[re.search(r"condition=%?([\w.-]+)", loop.text)[1]]
    inside = [part for i in condition.values() for part in (i, *_fused(i, computations).values())]
    numbers = [int(found[1]) for i in inside if (found := re.match(r"constant\((\d+)\)", i.text))]
    if len(numbers) != 1:
        raise ValueError(f"loop {loop.name}: its condition has the numbers {numbers}, expected the one it counts to")
    return numbers[0]


def _moved(
    instruction: _Instruction, by_name: dict[str, _Instruction], computations: dict[str, dict[str, _Instruction]]
) -> int:
    """Bytes of main memory that a kernel reads and writes."""
    shapes = [by_name[operand].shape if operand in by_name else "" for operand in instruction.operands]
    if instruction.opcode in _SLICES:
        return 2 * _bytes(instruction.shape)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _bytes(shapes[1])
    if instruction.opcode.endswith("-start"):
        # (operands, results, and what the device notes): once read, once written.
        return _bytes(_last_of_start(instruction)) + sum(map(_bytes, shapes))
    result = _without_workspace(instruction.shape) if instruction.opcode == "custom-call" else instruction.shape
    if inside := _fused(instruction, computations):
        return _fused_bytes(inside, shapes, result)
    return _bytes(result) + sum(map(_bytes, shapes))


def _fused(instruction: _Instruction, computations: dict[str, dict[str, _Instruction]]) -> dict[str, _Instruction]:
    """What a fusion is made of; nothing of any other instruction."""
    called = re.search(r"calls=%?([\w.-]+)", instruction.text) if instruction.opcode == "fusion" else None
    return computations[called[1]] if called else {}


def _fused_bytes(inside: dict[str, _Instruction], shapes: list[str], result: str) -> int:
    """Of a fusion: parameters as far as its results need them, results as far as they are written.

    What is needed goes from the results to the parameters as a share of each value: a slice needs as many elements as it has, a
    sum all of what it adds, anything else the share of its operands that is needed of itself.
    """
    needed: dict[str, float] = collections.defaultdict(float)
    root = next((i for i in inside.values() if i.is_root), next(reversed(inside.values())))
    needed[root.name] = _elements(root.shape)
    moved = float(_bytes(result))
    for instruction in reversed(inside.values()):
        wanted = min(needed[instruction.name], _elements(instruction.shape))
        share = wanted / max(_elements(instruction.shape), 1)
        if instruction.opcode == "parameter":
            shape = shapes[int(re.match(r"parameter\((\d+)", instruction.text)[1])]
            moved += share * _bytes(shape)
        for place, operand in enumerate(instruction.operands):
            size = _elements(inside[operand].shape) if operand in inside else 0
            if instruction.opcode in (*_SLICES, "broadcast"):
                needed[operand] += min(wanted, size)
            elif instruction.opcode == "dynamic-update-slice" and place == 0:
                # Updated where it lies: neither read nor written but for the update.
                moved -= share * (_bytes(instruction.shape) - _bytes(inside[instruction.operands[1]].shape))
            else:
                needed[operand] += share * size
    return max(round(moved), 0)


def _is_product(instruction: _Instruction, computations: dict[str, dict[str, _Instruction]]) -> bool:
    if instruction.opcode in ("dot", "convolution", "custom-call"):
        return True
    return any(i.opcode in ("dot", "convolution") for i in _fused(instruction, computations).values())


def _last_of_start(instruction: _Instruction) -> str:
    """The shape of the result: of a start it is the second part of a tuple; on a GPU an all-reduce's start has the result alone."""
    shape = instruction.shape
    if (
        not shape.startswith("(")
        or instruction.opcode == "all-reduce-start"
        or not instruction.opcode.endswith("-start")
    ):
        return shape
    parts = [match[0] for match in _ARRAY.finditer(shape)]
    return " ".join(parts[len(instruction.operands) : 2 * len(instruction.operands)])


def _without_workspace(shape: str) -> str:
    """The results of a library's call without its workspace, which is the last of them."""
    parts = [match[0] for match in _ARRAY.finditer(shape)]
    return " ".join(part for part in parts if not (len(parts) > 1 and part.startswith("s8[")))


def _elements(shape: str) -> int:
    """Of all arrays of a shape."""
    sides = (match[2] for match in _ARRAY.finditer(shape))
    return sum(math.prod(int(side) for side in of.split(",") if side) for of in sides)


def _bytes(shape: str) -> int:
    """Of all arrays of a shape that lie in main memory, with what tiles of the layout add (TPU)."""
    total = 0
    for match in _ARRAY.finditer(shape):
        kind, sides, layout = match[1], match[2], match[3] or ""
        if "S(1)" in layout:  # of a TPU: its fast memory
            continue
        found = re.search(r"\d+", kind)
        bits = _BITS.get(kind, int(found[0]) if found else 8)
        sizes = [int(side) for side in sides.split(",") if side]
        tile = re.search(r"T\(([0-9,]+)\)", layout)
        if tile and sizes:
            order = [int(axis) for axis in layout.partition(":")[0].split(",")]  # the fastest axis first
            for axis, size in zip(order, reversed([int(side) for side in tile[1].split(",")]), strict=False):
                sizes[axis] = -(-sizes[axis] // size) * size
        total += math.prod(sizes) * bits // 8
    return total
