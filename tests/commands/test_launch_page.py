"""docs/launch.md and the files beside it: shell that parses, commands with flags that there are, files that exist."""

import importlib
import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import REPOSITORY

from specsar_jax import config as configs
from specsar_jax.commands import COMMANDS
from specsar_jax.config.files import config_file

PAGE = REPOSITORY / "docs" / "launch.md"
FOLDER = REPOSITORY / "docs" / "launch"
SCRIPTS = [*FOLDER.glob("*.sh"), *FOLDER.glob("*.slurm")]

MODULE = r"python -m (?P<module>specsar_jax|tfds_dwplus)\.(?P<name>\w+)"
POD = r"docs/launch/pod\.sh (?P<pod>devices|train)"
SLURM = r"sbatch docs/launch/train\.slurm"
CONTAINER = r"--volume specsar-xla:/cache (--stop-timeout 120 )?specsar (?P<short>\w+)|specsar \\\n#?\s+(?P<next>\w+)"


def commands() -> dict[str, tuple[str, list[str]]]:
    """Our commands on the page and in its files: where and how they are written, the module, and the arguments."""
    found = {}
    for file in (PAGE, *FOLDER.iterdir()):
        for place in re.finditer(rf"({MODULE}|{POD}|{SLURM}|{CONTAINER})(?P<rest>(\\\n|[^\n`;|])*)", file.read_text()):
            of = place.groupdict()
            name = of["name"] or of["pod"] or of["short"] or of["next"] or "train"
            written = place["rest"].replace("\\\n", " ").split("&&")[0]
            written = written.rstrip('"') if written.count('"') % 2 else written  # what gcloud is given is quoted
            arguments = [word for word in shlex.split(written, comments=True) if not word.startswith("$")]
            if name in COMMANDS:
                found[f"{file.name}: {name}{written}"] = (f"{COMMANDS[name][0]}.{name}", arguments)
    return found


FOUND = commands()


def test_there_are_commands_to_look_at():
    assert len(FOUND) >= 15 and {module for module, _ in FOUND.values()} == {"specsar_jax.devices", "specsar_jax.train"}
    assert {file.name for file in FOLDER.iterdir()} == {name for name in (key.partition(":")[0] for key in FOUND)} - {
        PAGE.name
    }


@pytest.mark.parametrize("written", FOUND)
def test_a_command_has_the_flags_it_is_shown_with(written, capsys):
    module, arguments = FOUND[written]
    module = "specsar_jax.preflight.command" if module == "specsar_jax.devices" else module
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(module).main(["--help"])
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    settings = []
    for word in arguments:
        if word.startswith("--config."):
            settings.append(word.removeprefix("--config."))
        elif word.startswith("--"):
            assert word.partition("=")[0] in known
    file = QUICKSTART = config_file("quickstart")  # noqa: N806
    if "--config" in arguments:
        file = config_file(arguments[arguments.index("--config") + 1])
        assert file.is_file() and file != QUICKSTART
    assert configs.override(configs.load(file), settings)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_parses(script):
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_shell_on_the_page_parses(tmp_path):
    lines = [line[4:] for line in PAGE.read_text().splitlines() if line.startswith("    ")]
    (tmp_path / "page.sh").write_text("\n".join(lines))
    checked = subprocess.run(["bash", "-n", tmp_path / "page.sh"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_links_lead_somewhere():
    for text in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / text).exists(), text
    assert "(docs/launch.md)" in (REPOSITORY / "README.md").read_text()


def test_packages_and_extras_exist():
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    extras = set(setup["options.extras_require"])
    for file in (PAGE, *FOLDER.iterdir()):
        named = re.findall(r"(?:\.|specsar_jax)\[(\w+)\]|EXTRA=(\w+)", file.read_text())
        assert {one or other for one, other in named} <= extras, file


def pod(folder: Path, *arguments: str, ends: str = "0", state: str = "READY") -> tuple[int, list[str]]:
    """Runs pod.sh with a gcloud that notes how it is called; `ends` are the exit codes of ssh, one after the other."""
    (folder / "ends").write_text(ends)
    gcloud = folder / "gcloud"
    gcloud.write_text(
        f"""#!/bin/bash
        echo "$@" >> {folder}/calls
        case "$4" in
          ssh) code=$(cut -d' ' -f1 {folder}/ends); cut -d' ' -f2- {folder}/ends > {folder}/rest; cp {folder}/rest {folder}/ends; exit $code ;;
          describe) echo {state} ;;
        esac"""
    )
    (folder / "sleep").write_text("#!/bin/bash\n")
    (folder / "python3").write_text(
        "#!/bin/bash\nmkdir -p build/wheels && touch build/wheels/specsar_jax-1-py3-none-any.whl\n"
    )
    for file in folder.iterdir():
        file.chmod(0o755)
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "TPU_NAME": "t",
        "ZONE": "z",
        "TYPE": "v5litepod-16",
        "VERSION": "v",
        "BUCKET": "b",
    }
    shutil.copytree(REPOSITORY / "docs", folder / "docs")
    done = subprocess.run(
        [folder / "docs/launch/pod.sh", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    calls = re.findall(r"^compute .*", (folder / "calls").read_text(), re.MULTILINE)
    return done.returncode, calls


def test_the_pod_is_given_the_command_as_it_was_written(tmp_path):
    code, (call,) = pod(tmp_path, "train", "--config", "specsar_former", "--config.data.name=a b")
    assert code == 0 and call.startswith(
        "compute tpus tpu-vm ssh t --zone=z --worker=all --command=cd ~ && exec ~/venv/bin/python -m "
    )
    assert call.endswith(r"specsar_jax.train --distributed --config specsar_former --config.data.name=a\ b")


@pytest.mark.parametrize(("ends", "code"), [("2", 2), ("143", 143)])
def test_the_pod_does_not_try_again_what_was_stopped_or_is_wrong(tmp_path, ends, code):
    assert pod(tmp_path, "train", ends=ends)[0] == code


def test_the_pod_goes_on_after_a_preemption(tmp_path):
    """The connection breaks off, the TPU VM is gone; it is made anew and set up, and the run starts again."""
    code, calls = pod(tmp_path, "train", "--workdir", "shared/a", ends="255 0 0 0", state="PREEMPTED")
    assert code == 0
    assert [call.split()[3] for call in calls] == ["ssh", "describe", "delete", "create", "scp", "ssh", "ssh", "ssh"]
    assert calls[0] == calls[-1] and "--spot" in calls[3]
