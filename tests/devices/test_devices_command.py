"""`specsar_jax.devices`: what it finds, what a run needs, its exit codes; alone and in two processes."""

import json
import os
import subprocess
import sys

import jax
import portpicker
import pytest
from conftest import REPOSITORY, SMALL, command, refused, small_config, small_flags

from specsar_jax.devices import accelerators
from specsar_jax.preflight import command as devices
from specsar_jax.preflight import planned, programs, surroundings
from specsar_jax.train import main as train
from specsar_jax.training import train_state

RUN = ("--config", "quickstart", *SMALL)


def report(capsys, *arguments: object) -> tuple[int, dict]:
    """Exit code and report of the command, run in this process with its eight devices."""
    code = 0
    try:
        devices.main([*map(str, arguments), "--json"])
    except SystemExit as ended:
        code = ended.code
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def cache_as_before(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def test_without_a_config_it_tells_what_there_is(tmp_path):
    done = command("specsar_jax.devices", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("devices: 1 x cpu, 1 process\n")
    assert f"jax {jax.__version__}" in done.stdout and "\nrun:" not in done.stdout
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] in done.stdout
    assert not list(tmp_path.iterdir())


def test_what_a_run_needs(small_run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, found = report(capsys, *small_flags(small_run), "--workdir", "runs/a")
    run = found["run"]
    assert (code, run["fits"], run["starts"], found["advice"]) == (0, True, True, [])
    assert run["data"].startswith("dynamic_world_plus/mine") and "tiles of 64 x 64 px" in run["data"]
    assert run["mesh"] == {"data": 8, "model": 1, "parameters": "replicated"}
    assert (run["batch"]["of_a_device"], run["batch"]["evaluation_of_a_device"]) == (1, 1)
    assert not list(tmp_path.iterdir())  # nothing is written

    state = jax.eval_shape(lambda: train_state.init_state(small_config(small_run)))
    size = programs.bytes_of(jax.tree.map(lambda leaf: jax.device_put(jax.numpy.zeros(leaf.shape, leaf.dtype)), state))
    tile = 64 * 64 * (9 * 2 + 2 * 4 + 1) + 1
    for part in run["needs"].values():
        assert part["weights"] + part["optimizer"] == size
        assert part["total"] == size + part["batches"] + part["temporaries"]
    assert run["needs"]["training"]["batches"] == 2 * tile  # the one at work and the next
    assert run["needs"]["training"]["temporaries"] > 10 * tile


def test_split_weights_are_counted_as_they_are_split(small_run):
    plan = planned.plan(small_config(small_run, "mesh.parameters=sharded", "mesh.model=2", "model=tiny"))
    mesh = programs.sharding.make_mesh(plan.config.mesh)
    state, _ = programs.abstract_state(plan.config, mesh)
    whole, _ = programs.abstract_state(
        plan.config, programs.sharding.make_mesh(programs.sharding.configs.Mesh(devices=1))
    )
    assert programs.bytes_of(state) < 0.2 * programs.bytes_of(whole)


def test_the_run_finds_the_compiled_step(small_run, tmp_path):
    """What is compiled is the program that is trained, to the letter: it comes out of the cache."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    flags = [*small_flags(small_run), "--workdir", str(tmp_path / "run"), "--config.train.steps=1"]
    kept = []
    for module in ("specsar_jax.devices", "specsar_jax.train"):
        subprocess.run([sys.executable, "-m", module, *flags], cwd=tmp_path, env=environment, check=True, timeout=300)
        kept.append({file.name for file in (tmp_path / "cache").glob("jit_traced*-cache")})
    assert len(kept[0]) == 1 and kept[0] == kept[1]


def test_a_data_set_that_is_not_there_is_assumed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, found = report(capsys, *RUN, "--config.data.name=none", "--config.data.s2_bands=B2,B3")
    assert code == 0 and found["run"]["data"].startswith(
        "assumed: tiles of 510 x 510 px, 2 bands, VV and VH, 9 classes, for no data"
    )
    assert not list(tmp_path.iterdir())


def test_the_config_of_a_run(small_run, tmp_path, capsys):
    code, found = report(capsys, "--workdir", small_run / "run")
    assert code == 0 and found["run"]["name"].endswith("run/config.json")
    assert found["run"]["batch"]["crop_px"] == 64


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        (["--config.train.batch_size=12"], "positive multiple of the 8 devices; take --config.train.batch_size=8"),
        (["--config.train.batch_size=3"], "take --config.train.batch_size=8"),
        (["--config.train.batch_size=40", "--config.train.accumulate=2"], "take --config.train.batch_size=32"),
        (["--config.mesh.model=3"], "do not make up the 8 devices"),
    ],
)
def test_a_config_for_other_devices_does_not_start(flags, advice, capsys):
    code, found = report(capsys, *RUN, *flags)
    assert code == 1 and not found["run"]["starts"] and found["run"]["needs"] is None
    assert len(found["advice"]) == 1 and advice in found["advice"][0]


def test_it_does_not_fit(capsys, monkeypatch):
    """Half of the memory that it needs, shared by eight devices: the batch that is advised fits."""
    batch = "--config.train.batch_size=64"
    _, found = report(capsys, *RUN, batch)
    need = found["run"]["needs"]["training"]["total"]
    monkeypatch.setattr(surroundings, "free_ram_bytes", lambda: 8 * need // 2)
    code, found = report(capsys, *RUN, batch)
    assert code == 1 and found["run"]["fits"] is False and found["available_bytes"] == need // 2
    (advice,) = found["advice"]
    assert "rematerialisation" in advice and "--config.train.accumulate=" in advice and "bfloat16" not in advice
    smaller = next(word for word in advice.split() if word.startswith("--config.train.batch_size="))
    assert smaller != batch
    code, found = report(capsys, *RUN, smaller)
    assert code == 0 and found["run"]["fits"] is True

    with pytest.raises(SystemExit, match="1"):
        devices.main([*RUN, batch])
    text = capsys.readouterr().out
    assert "\nDOES NOT FIT: " in text and text.splitlines()[-1].startswith("advice: the training step does not fit: ")


def test_the_compiler_gives_up(capsys, monkeypatch):
    """As XLA does for a TPU, at once where a program is too large."""

    def out_of_memory(*_):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in hbm. Used 20.50G of 15.75G hbm. Exceeded ..."
        )

    monkeypatch.setattr(programs, "compile_ahead", out_of_memory)
    code, found = report(capsys, *RUN)
    needs = found["run"]["needs"]["training"]
    assert code == 1 and found["run"]["fits"] is False and needs["total"] == int(20.5 * 2**30)
    assert "Used 20.50G" in needs["gave_up"]
    with pytest.raises(SystemExit, match="1"):
        devices.main(list(RUN))
    assert "\nDOES NOT FIT: 22.01 GB of " in capsys.readouterr().out

    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: Mosaic failed\nto compile")

    monkeypatch.setattr(programs, "compile_ahead", broken)
    with pytest.raises(ValueError, match="XLA does not compile it: INTERNAL: Mosaic failed to compile"):
        devices.main(list(RUN))


def test_a_cache_that_does_not_tell(capsys, monkeypatch):
    class Compiled:
        def memory_analysis(self) -> None:
            return None

    monkeypatch.setattr(programs, "compile_ahead", lambda *_: Compiled())
    code, found = report(capsys, *RUN)
    assert code == 0 and found["run"]["fits"] is None
    assert "JAX_ENABLE_COMPILATION_CACHE=false" in found["advice"][0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.train.batch_siz=8"], "did you mean"),
        (["--config", "nowhere.py"], "no config file nowhere.py"),
        (["--config.data.s2_bands=B2,B99", *RUN], "no band B99"),
        (["--config.train.trainable=nothing", *RUN], "nothing"),
        (["--device", "v9"], "'v9' is not one of h100"),
        (["--device", "v5e:9"], "1 to 8"),
        (["--device", "v5e", "--distributed"], "--device asks for devices that are not here"),
        (["--processes", "2"], "go together"),
    ],
)
def test_wrong_input_is_told(flags, message, small_run, capsys):
    data = [f"--config.data.data_dir={small_run / 'data'}", "--config.data.name=mine"]
    with pytest.raises((ValueError, SystemExit)) as error:
        devices.main([*data, *flags])
    assert message in str(error.value) + capsys.readouterr().err
    assert isinstance(error.value, ValueError) or error.value.code == 2


def test_wrong_input_is_one_line(tmp_path):
    assert "did you mean 'steps'" in refused(command("specsar_jax.devices", "--config.train.step=1", cwd=tmp_path))


def test_a_device_without_its_compiler(monkeypatch):
    monkeypatch.setattr(accelerators, "without_compiler", list)
    with pytest.raises(ValueError, match=r"no compiler for v5e is installed: pip install 'specsar_jax\[aot\]'"):
        devices.main(["--device", "v5e"])


def test_no_device_of_the_kind_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert "JAX cannot start its devices, JAX_PLATFORMS=cuda: " in refused(command("specsar_jax.devices", cwd=tmp_path))


@pytest.mark.slow
def test_a_device_that_is_not_here(tmp_path):
    """A TPU of 16 GB: a small batch fits, and at a large one its compiler gives up."""
    if accelerators.without_compiler(["v5e"]):
        pytest.skip("libtpu is not installed: pip install -e '.[aot]'")
    for batch, code in ((8, 0), (32768, 1)):
        flags = (*RUN, f"--config.train.batch_size={batch}", "--device", "v5e", "--json")
        done = command("specsar_jax.devices", *flags, cwd=tmp_path, timeout=900)
        assert done.returncode == code, done.stderr[-2000:]
        found = json.loads(done.stdout)
        assert found["processes"][0]["kind"] == "TPU v5 lite" and found["run"]["fits"] is (code == 0)
    needs = found["run"]["needs"]["training"]
    assert "RESOURCE_EXHAUSTED" in needs["gave_up"] and needs["total"] > 16e9
    assert "--config.train.batch_size=" in found["advice"][0]


def test_train_takes_the_same_flags(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "specsar_jax.train.train", lambda config, workdir, change: seen.append((config, workdir, change))
    )
    seen: list = []
    train([*small_flags(small_run), "--workdir", str(tmp_path), "--change"])
    assert seen[0][0].train.steps == 6 and seen[0][1:] == (tmp_path, True)


def test_of_two_processes_the_first_one_tells(tmp_path):
    joined = ("--coordinator", f"localhost:{portpicker.pick_unused_port()}", "--processes", "2")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "specsar_jax.devices", *RUN, *joined, "--process_id", str(number), "--json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_NUM_CPU_DEVICES": "2"},
        )
        for number in range(2)
    ]
    (out, err), (silent, noise) = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], err + noise
    found = json.loads(out)
    assert silent == "" and "compiling" not in noise
    assert [(of["process"], of["devices"]) for of in found["processes"]] == [(0, 2), (1, 2)]
    assert found["run"]["mesh"]["data"] == 4 and found["run"]["fits"] is True
    assert found["available_bytes"] <= min(of["free_ram_bytes"] for of in found["processes"]) // 4  # of one host
