"""Addresses are shown without their secrets, whatever library quotes them, and are told apart when compared later."""

import io
import json
import logging

import numpy as np
import pytest
import rasterio
from conftest import command

from tfds_dwplus.files.addresses import ShownStream, compared, compared_tree, shown, shown_in

ADDRESSES = {
    "https://user:HUSH@x/a.tif?sig=HUSH": "https://x/a.tif",
    "https://x/a.tif#HUSH": "https://x/a.tif",
    "https://user:HUSH/@HUSH?@x:80/a.tif": "https://x:80/a.tif",
    "s3://key:HUSH@bucket/a.tif": "s3://bucket/a.tif",
    "az://c/b.tif?sv=1&sig=HUSH": "az://c/b.tif",
    "/vsicurl/https://x/a.tif?sig=HUSH": "/vsicurl/https://x/a.tif",
    "/vsis3_streaming/b/a.tif?token=HUSH": "/vsis3_streaming/b/a.tif",
    "/vsicurl?header.Authorization=HUSH&url=https%3A%2F%2Fx%2Fa.tif%3Fsig%3DHUSH": "/vsicurl/https://x/a.tif",
    "/vsicurl/https%253A%252F%252Fx%252Fa%253Fsig%253DHUSH": "/vsicurl/https://x/a",
    "/vsizip/vsicurl/https://x/a.zip?sig=HUSH/a.tif": "/vsizip/vsicurl/https://x/a.zip",
    "/vsizip/{/vsicurl/https://x/a.zip?sig=HUSH}/a.tif": "/vsizip/{/vsicurl/https://x/a.zip}/a.tif",
    'ZARR:"/vsicurl/https://x/a?sig=HUSH"': 'ZARR:"/vsicurl/https://x/a"',
    'NETCDF:"https://u:HUSH@x/a.nc":B2': 'NETCDF:"https://x/a.nc":B2',
    "PG:host=x password=HUSH dbname=y": "PG:host=x password=... dbname=y",
    "https:/u:HUSH@x/a": "https:/x/a",
    "https://x/a.tif;token=HUSH": "https://x/a.tif",
    "https://x/a%3Fsig%3DHUSH": "https://x/a",
    "https://x/a%253Fb%253D1%2526X-Amz-Signature%253DHUSH": "https://x/a%253Fb%253D1",
    "https://x/a%3Fb.tif": "https://x/a%3Fb.tif",
}

LOCAL = ("/data/a?b=1#c.tif", "a#b?c.tif", "/vsizip//data/a#b?.zip/x.tif", 'HDF5:"/data/a?.h5"://B2', "a b.tif")


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address(address):
    assert shown(address) == ADDRESSES[address]
    assert compared(compared(address)) == compared(address) and "HUSH" not in compared(address)
    for quoted in (f"cannot open {address}: no", f"'{address}' is no raster", f"at {address}, and {address}."):
        assert "HUSH" not in shown_in(quoted)
    assert "HUSH" not in json.dumps(compared_tree({"a": [address]}))


@pytest.mark.parametrize("path", LOCAL)
def test_a_local_path_stays(path):
    assert shown(path) == compared(path) == path
    assert shown_in(f"cannot open {path}: no such file") == f"cannot open {path}: no such file"


@pytest.mark.parametrize(
    "text",
    [
        "HTTPConnectionPool(host='x', port=1): Max retries exceeded with url: /stac?token=HUSH (Caused by ...)",
        "403 Client Error: Forbidden for url: https://u:HUSH@x/stac?token=HUSH.",
        "AWS_SECRET_ACCESS_KEY=HUSH, AWS_SESSION_TOKEN: HUSHHUSHHUSHHUSHHUSH",
        "{'Authorization': 'Bearer HUSH'}",
        "Authorization: Basic HUSH",
        '{"access_token": "HUSH"}',
        "no such key: a.tif?X-Amz-Signature=HUSH",
        "<UserPwd>HUSH</UserPwd>",
        "see ?next=https%3A%2F%2Fx%2Fa%3Fsig%3DHUSH",
    ],
)
def test_a_text_of_a_library(text):
    assert "HUSH" not in shown_in(text)


def test_other_text_stays():
    for text in (
        "note: 3 tokens: 5, key: value",
        "see http://127.0.0.1:8617/ (Ctrl-C ends)",
        "a: b",
        "x@y.z",
        "50 % = 3?",
    ):
        assert shown_in(text) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://x/a?sv=1&se=2&sp=r&sig=1", "https://x/a?sv=2&se=3&sp=rl&skoid=4&sig=5"),
        ("https://x/a?X-Amz-Signature=1&X-Amz-Date=2", "https://x/a?X-Amz-Signature=3&X-Amz-Expires=4"),
        ("https://x/a?AWSAccessKeyId=1&Expires=2&Signature=3", "https://x/a?AWSAccessKeyId=9&Expires=8&Signature=7"),
        ("https://x/a?file=b&GoogleAccessId=1", "https://x/a?token=2&file=b"),
        ("https://u:one@x/a", "https://u:two@x/a"),
    ],
)
def test_a_renewed_signature_is_the_same_file(one, other):
    assert compared(one) == compared(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://x/a?file=a&sig=1", "https://x/a?file=b&sig=1"),
        ("https://x/a?versionId=1", "https://x/a?versionId=2"),
        ("/vsizip/vsicurl/https://x/a.zip?sig=1/a.tif", "/vsizip/vsicurl/https://x/a.zip?sig=1/b.tif"),
    ],
)
def test_another_file_is_another(one, other):
    assert compared(one) != compared(other)


def test_it_takes_no_long_time():
    for text in ("a-" * 20000, "?a=1&" * 5000, "http://" * 3000, "'http://x" * 2000, "%3A%2F%2F" * 2000):
        shown_in(text)


def test_streams_and_logs_of_gdal(caplog):
    stream = io.StringIO()
    print("note: https://u:HUSH@x/a?sig=HUSH is busy", file=ShownStream(stream))
    assert stream.getvalue() == "note: https://x/a is busy\n"
    import tfds_dwplus.imagery.scene_files  # noqa: F401

    with caplog.at_level(logging.INFO):
        logging.getLogger("rasterio._env").warning("CPLE: %s", "/vsicurl/https://u:HUSH@x/a?sig=HUSH")
    assert "HUSH" not in caplog.text and "https://x/a" in caplog.text


OPTIONS = {
    "tfds_dwplus.acquire": (
        *("--labels", "labels", "--output", "out", "--s2_collection", "a", "--s1_collection", "b", "--retries", "0"),
        *("--s1_unit", "db", "--s1_quantity", "sigma0", "--stac_url"),
    ),
    "specsar_jax.view": ("map.tif", "--s2"),
    "specsar_jax.evaluate": ("--legend", "worldcover", "--labels", "labels", "--output", "x.json", "--prediction"),
    "tfds_dwplus.prepare": ("--tiles",),
    "specsar_jax.train": ("--workdir", "run", "--config.data.data_dir"),
}
"""Commands, each with arguments before an address that nobody serves."""


@pytest.mark.parametrize("module", OPTIONS)
@pytest.mark.parametrize(
    "address",
    [
        "http://u:HUSH@127.0.0.1:9/a.tif?sig=HUSH#HUSH",
        "/vsicurl?header.Authorization=HUSH&url=http%3A%2F%2F127.0.0.1%3A9%2Fa.tif%3Fsig%3DHUSH",
    ],
)
def test_no_byte_of_a_command_has_the_secret(tmp_path, module, address):
    (tmp_path / "labels/Experts/EH/1").mkdir(parents=True)
    profile = {
        "driver": "GTiff",
        "height": 32,
        "width": 32,
        "count": 1,
        "dtype": "uint8",
        "crs": "EPSG:32630",
        "nodata": 255,
    }
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)
    for path in ("labels/Experts/EH/1/dw_-3_36.1-20190101.tif", "map.tif"):
        with rasterio.open(tmp_path / path, "w", **profile, transform=place) as raster:
            raster.write(np.ones((1, 32, 32), np.uint8))
    *before, last = OPTIONS[module]
    given = [f"{last}={address}"] if "." in last else [last, address]
    result = command(module, *before, *given, cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "HUSH" not in result.stdout + result.stderr
    for path in filter(lambda path: path.is_file(), tmp_path.rglob("*")):
        assert b"HUSH" not in path.read_bytes(), path
