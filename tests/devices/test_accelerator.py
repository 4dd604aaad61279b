"""Training steps as compiled programs: which collectives they hold, for eight CPU devices here, for GPUs and TPUs that are not here."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import accelerator
import jax
import pytest
from accelerators import programs
from conftest import REPOSITORY, small_config

from specsar_jax import config as configs
from specsar_jax.devices import sharding
from specsar_jax.trained.loading import load_trained
from specsar_jax.training import train_state
from specsar_jax.training.train_state import make_program

SMALL = {"widths": [16, 32], "blocks": [1, 2], "heads": [1, 2], "reductions": [4, 2], "decoder_width": 16}
EIGHT = {"preset": "specsar_former", "program": "train:8:x8", "type": "bfloat16", "size_px": 64, "changes": SMALL}


@pytest.mark.parametrize("mesh", [configs.Mesh(), configs.Mesh(parameters="sharded"), configs.Mesh(model=2)])
def test_devices_sum_gradients_and_pass_no_maps_around(small_run, mesh):
    """Weights that are split are put together once each; nothing else crosses devices but sums."""
    config = dataclasses.replace(small_config(small_run, "model.compute_dtype=bfloat16"), mesh=mesh)
    devices = sharding.make_mesh(mesh)
    abstract = jax.eval_shape(lambda: train_state.init_state(config))
    shardings = sharding.of_state(abstract, devices, mesh)
    state = jax.tree.map(
        lambda leaf, of: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=of), abstract, shardings
    )
    by_tile = sharding.by_tile(devices)
    batch = {
        "s2": jax.ShapeDtypeStruct((8, 64, 64, 9), "uint16", sharding=by_tile),
        "s1": jax.ShapeDtypeStruct((8, 64, 64, 2), "float32", sharding=by_tile),
        "label": jax.ShapeDtypeStruct((8, 64, 64), "uint8", sharding=by_tile),
        "expert": jax.ShapeDtypeStruct((8,), "bool", sharding=by_tile),
    }
    statistics = load_trained(small_run / "run").statistics
    found = programs.traffic(
        make_program(config, statistics, devices, shardings).lower(state, batch).compile().as_text()
    )
    split = sum(any(of.spec) for of in jax.tree.leaves(shardings.params))
    assert found.collectives.get("all-gather", 0) <= split
    assert set(found.collectives) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert split or found.collective_types <= {"f32", "s32"}


@pytest.mark.slow
@pytest.mark.parametrize("device", ["h100", "v5e"])
def test_step_compiles_for_eight_devices_with_few_collectives(device):
    needed = {"h100": ("jax_plugins.xla_cuda12", "nvidia.cuda_nvcc"), "v5e": ("libtpu",)}[device]
    found = compiled(EIGHT | {"device": device}, needed)
    assert "all-gather" not in found["collectives"] and sum(found["collectives"].values()) <= 10
    assert set(found["collective_types"]) <= {"f32", "s32"}  # gradients, and the number of labelled pixels


@pytest.mark.slow
def test_step_compiles_for_one_gpu_in_float32():
    """The README's first command on a GPU; its sums once asked for more shared memory than a kernel has."""
    case = EIGHT | {"device": "h100", "preset": "tiny", "program": "train:8", "type": "float32", "changes": {}}
    assert compiled(case, ("jax_plugins.xla_cuda12", "nvidia.cuda_nvcc"))["collectives"] == {}


def compiled(case: dict, needed: tuple[str, ...]) -> dict:
    """What `benchmarks/accelerator.py` finds of a case; skips where a compiler is not installed."""
    for module in needed:
        try:
            there = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            there = None
        if there is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[aot]'")
    command = [sys.executable, REPOSITORY / "benchmarks" / "accelerator.py", "--worker", json.dumps(case)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


LOOP = """HloModule step

%fused (a: f32[10,4], b: f32[4]) -> f32[4] {
  %a = f32[10,4]{1,0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %row = f32[1,4]{1,0} slice(%a), slice={[2:3], [0:4]}
  %flat = f32[4]{0} bitcast(%row)
  ROOT %sum = f32[4]{0} add(%flat, %b)
}

%body (state: (s32[], f32[10,4], f32[4])) -> (s32[], f32[10,4], f32[4]) {
  %state = (s32[], f32[10,4]{1,0}, f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[10,4]{1,0} get-tuple-element(%state), index=1
  %y = f32[4]{0} get-tuple-element(%state), index=2
  %next = f32[4]{0} fusion(%x, %y), kind=kLoop, calls=%fused
  ROOT %out = (s32[], f32[10,4]{1,0}, f32[4]{0}) tuple(%i, %x, %next)
}

%cond (state: (s32[], f32[10,4], f32[4])) -> pred[] {
  %state = (s32[], f32[10,4]{1,0}, f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %last = s32[] constant(3)
  ROOT %more = pred[] compare(%i, %last), direction=LT
}

ENTRY %main (p: (s32[], f32[10,4], f32[4]), q: bf16[16,8]) -> f32[4] {
  %p = (s32[], f32[10,4]{1,0}, f32[4]{0}) parameter(0)
  %q = bf16[16,8]{1,0:T(8,128)(2,1)} parameter(1)
  %kept = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} copy(%q)
  %product = (f32[16,16]{1,0}, s8[1000]{0}) custom-call(%kept, %kept), custom_call_target="__cublas$gemm"
  %loop = (s32[], f32[10,4]{1,0}, f32[4]{0}) while(%p), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %y = f32[4]{0} get-tuple-element(%loop), index=2
  ROOT %all = f32[4]{0} all-reduce(%y), to_apply=%cond
}
"""


@pytest.mark.parametrize("noted", [True, False])  # a TPU's programs do not say how often a loop turns
def test_traffic_of_a_program_counted_by_hand(noted):
    found = programs.traffic(LOOP if noted else LOOP.replace("known_trip_count", "other"))
    copied = 16 * 128 * 2  # a row of a TPU's tile has 128 numbers; the copy lies in fast memory
    product = 16 * 16 * 4  # without its workspace, from fast memory
    turn = 16 + 16 + 16  # of ten rows one is read
    assert found.kernels == 1 + 1 + 3 + 1
    assert found.gigabytes == pytest.approx((copied + product + 3 * turn + 16 + 16) / 1e9)
    assert found.products_gigabytes == pytest.approx(product / 1e9)
    assert (found.collectives, found.collective_megabytes) == ({"all-reduce": 1}, {"all-reduce": 16 / 1e6})
    assert found.collective_types == {"f32"}


def test_flop_are_those_of_products_as_often_as_loops_turn():
    def step(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (jax.nn.relu(x @ x), None), x, length=5)[0]

    shape = jax.ShapeDtypeStruct((8, 8), "float32")
    assert programs.products_flop(jax.make_jaxpr(step)(shape).jaxpr) == 5 * 2 * 8**3


@pytest.mark.parametrize("text", ["train", "train:x8", "draw:8", "train:8:x9"])
def test_a_wrong_program_is_named(text):
    with pytest.raises(ValueError, match="is not forward, evaluate or train"):
        accelerator.Program.parse(text)


def test_a_bound_is_the_larger_of_work_and_traffic():
    case = {"device": "v5e", "program": "forward:8", "type": "bfloat16", "gflop": 197e3, "gigabytes": 819 * 2}
    assert accelerator.bound(case) == pytest.approx(8 / 2)  # one second of products, two of memory
    assert accelerator.bound(case | {"device": "here"}) is None
