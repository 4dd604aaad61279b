"""Checks what is installed against known advisories: `python .ci/audit.py [path of pip-audit]`, with the Python that has the project.

Offline: each package that setup.cfg names is at or above its lower bound, which stands behind the last known advisory that reaches us;
extras that are not installed are left out. With pip-audit, where the index that pip uses tells advisories (a mirror of files alone does
not): it asks about every package installed, and each advisory is printed. Exit code 1: a package that setup.cfg names is below its
bound, or has an advisory that a newer release ends, so that the bound is to be raised.
"""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "specsar_jax"
SECONDS = 120
"""Longest that pip-audit may take; it asks once a package."""


def main() -> None:
    """Prints a line for each finding and one at the end."""
    named = [Requirement(text) for text in importlib.metadata.requires(PROJECT) or []]
    own = {canonicalize_name(requirement.name) for requirement in named}
    wrong = below_bounds(named)
    known = asked(Path(sys.argv[1])) if len(sys.argv) > 1 else {}
    for package, advisories in known.items():
        for advisory in advisories:
            fixed = ", ".join(advisory["fix_versions"])
            line = f"{package} has {advisory['id']}, " + (f"fixed in {fixed}" if fixed else "not fixed yet")
            print(line)
            if fixed and canonicalize_name(package.split()[0]) in own:
                wrong.append(f"{line}: raise its lower bound in setup.cfg")
    what = f"{len(known)} packages asked about" if known else "no advisories to be had from here"
    print(f"audit: {len(wrong)} faults in what setup.cfg names, {what}")
    sys.exit("\n".join(wrong) or None)


def below_bounds(named: list[Requirement]) -> list[str]:
    """A line for each package that is installed in a version that its requirement does not allow."""
    wrong = []
    for requirement in named:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is installed, expected {requirement.specifier}")
    return wrong


def asked(tool: Path) -> dict[str, list[dict]]:
    """Advisories by 'package version' of what is installed, but the project and what installs it; none if they are not to be had."""
    installed = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    for name in (PROJECT, "pip", "setuptools"):
        installed.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "installed.txt"
        listed.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
        flags = ("--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json")
        try:
            command = [tool, "--requirement", listed, *flags]
            result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            answers = json.loads(result.stdout)["dependencies"]
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
            return {}
    # without 'vulns': the index does not know the package
    return {f"{answer['name']} {answer['version']}": answer["vulns"] for answer in answers if "vulns" in answer}


if __name__ == "__main__":
    main()
