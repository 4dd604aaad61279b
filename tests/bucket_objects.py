"""Buckets on loopback in which nothing is sent but when a test says so; what other machines and processes see of them, and do to them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from local_buckets import serving

from tfds_dwplus.files import buckets
from tfds_dwplus.files.buckets import mirror, servers

MANY = 1 << 21
"""Bytes of a file that is kept in the store."""


@pytest.fixture(scope="module")
def served():
    """Both servers."""
    pytest.importorskip("google.cloud.storage")
    pytest.importorskip("boto3")
    with serving() as both:
        yield both


@pytest.fixture
def loopback(served, monkeypatch, tmp_path):
    """Both servers, found by the clients; nothing is sent but by `flush`."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPECSAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(servers, "WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(mirror, "EVERY_S", 3600)
    yield served
    for proxy in (served.google, served.s3):
        proxy.faults.clear()
    buckets.close()


@pytest.fixture(params=["gs", "s3"])
def place(request, loopback, tmp_path) -> str:
    """A folder in a bucket, with nothing in it."""
    return f"{request.param}://box/{tmp_path.name}"


def names(address: str) -> set[str]:
    """Names of all objects below an address, as the server tells."""
    scheme, _, rest = address.partition("://")
    bucket, _, folder = rest.partition("/")
    return {name.removeprefix(f"{folder}/") for name in servers.connect(scheme, bucket).list(f"{folder}/")}


def put(server: servers.Server, path: Path, name: str) -> None:
    """Puts a file into a bucket, as somebody else does."""
    with path.open("rb") as file:
        servers.upload(server, file, path.stat().st_size, name)


def elsewhere(address: str) -> Path:
    """What another machine reads at an address."""
    buckets.close()
    return buckets.here(address)


def bucket_of(address: str) -> tuple[str, str]:
    scheme, _, rest = address.partition("://")
    return scheme, rest.partition("/")[0]


def another(script: str, *arguments: str) -> subprocess.Popen:
    """Another process, that runs a script."""
    before = "import sys, time\nfrom tfds_dwplus.files import buckets, outputs\nfrom tfds_dwplus.files.buckets import mirror\n"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", before + script, *arguments], env=environment)
