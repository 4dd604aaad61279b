"""Tells whether the inputs of a map are still what they were.

Enters: paths, addresses, folders and products, as `scene_files` reads them. Leaves: facts of every file that their pixels come
from, for JSON: size and time of a local file, what a server tells of a remote one. Of a remote file, 128 kB are read at most.

The query of an address is no part of its name, because a signature in it is renewed from time to time; what of it chooses the file is
kept as a hash, see `addresses.compared`.
"""

import contextlib
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tfds_dwplus.files import hosts
from tfds_dwplus.files.addresses import compared, is_remote, shown
from tfds_dwplus.files.strangers import parse_xml
from tfds_dwplus.imagery.inputs.source_files import BESIDE_REMOTE, absolute, file_of, files_behind, is_file, on_server
from tfds_dwplus.imagery.scene_files import open_raster

END_BYTES = 2**16
"""Bytes at the start of a remote file that are compared; of its end too, if the server tells no ETag and no time."""

TIMEOUT_S, WAITS_S = 20, (0, 1, 3)
"""Longest silence of a server, and the wait before each try."""

Facts = dict[str, Any]
"""What is known of a file. A fact that is missing is unknown, for a server may refuse to tell it."""

ABSENT: Facts = {"exists": False}


def fingerprint(paths: Sequence[str | Path], *, anywhere: bool = False) -> list[list]:
    """Returns, for each input, its name and the facts of all files behind it by name; `changed` compares such lists.

    Args:
        paths: the inputs.
        anywhere: as `opening.open_raster`.
    """
    files = {path: files_behind(path, anywhere=anywhere) for path in map(str, paths)}
    remote = list(dict.fromkeys(file for of_path in files.values() for file in of_path if on_server(file)))
    with ThreadPoolExecutor(16) as threads:
        facts = dict(zip(remote, threads.map(_told_by_server, remote), strict=True))
    for file in dict.fromkeys(file for of_path in files.values() for file in of_path):
        if not facts.get(file) and not (on_server(file) and shown(file).endswith(BESIDE_REMOTE)):
            facts[file] = _told_here(file)
    named = ((path, {_name(file): facts[file] for file in of_path}) for path, of_path in files.items())
    return [
        [_name(path), of_path, compared(path)] if _elsewhere(path) else [_name(path), of_path]
        for path, of_path in named
    ]


def changed(before: Any, after: list[list]) -> list[str] | None:
    """Returns the names of the files that are not what they were; None if these are other inputs.

    Args:
        before: what `fingerprint` returned, or JSON of any other kind.
        after: what it returns now.
    """
    try:
        if [shown(name) for name, *_ in before] != [name for name, *_ in after]:
            return None
        found = []
        for (_, old, *asked), (name, new, *asks) in zip(before, after, strict=True):
            if asked and asked != asks:  # an older map does not tell it
                found.append(name)
            old = {shown(file): facts for file, facts in old.items()}
            found += [file for file in {**old, **new} if _differ(old.get(file, ABSENT), new.get(file, ABSENT))]
        return list(dict.fromkeys(found))
    except (AttributeError, TypeError, ValueError):
        return None


def _differ(old: Facts, new: Facts) -> bool:
    if not (old and new):
        return False
    if ABSENT in (old, new):
        return old != new
    both = old.keys() & new.keys()
    if "etag" in both:  # the same bytes, also if they were copied again since
        both -= {"modified"}
    return any(old[fact] != new[fact] for fact in both)


def _told_here(file: str) -> Facts:
    """Facts of a file that no server told: a local one, or one that only GDAL can reach."""
    if not is_file(file):
        return _told_by_gdal(file) if is_remote(file) or file.startswith("/vsi") else ABSENT
    text_of = file.lower().endswith((".aux.xml", ".vrt"))
    if text_of and (said := _said(Path(file).read_bytes())) is not None:
        return {"says": _digest(said)} if said else ABSENT
    stat = Path(file).stat()
    return {"size": stat.st_size, "modified": stat.st_mtime_ns}


def _said(xml: bytes) -> bytes | None:
    """Returns what an XML file of GDAL says, without signatures in addresses and without statistics, which viewers add. None if it is
    no XML, b"" if it says nothing.
    """

    def leaves(element: ElementTree.Element, above: str) -> Iterator[str]:
        at = f"{above}/{element.tag}{sorted(element.attrib.items())}"
        if element.tag == "Histograms" or element.get("key", "").startswith("STATISTICS_"):
            return
        for child in element:
            yield from leaves(child, at)
        if text := (element.text or "").strip():
            yield at + re.sub(r"(https?://[^?<]*)\?[^<]*", r"\1", text)
        elif not len(element) and element.attrib:
            yield at

    try:
        return "\n".join(leaves(parse_xml(xml, "it"), "")).encode()
    except ValueError:
        return None


def _told_by_gdal(address: str) -> Facts:
    """Facts of a raster that is reached by GDAL alone: its size, tags, and where some of its blocks lie in the file."""
    try:
        with open_raster(address) as raster:
            rows, columns = (
                -(-side // block) for side, block in zip(raster.shape, raster.block_shapes[0], strict=True)
            )
            blocks = [
                raster.get_tag_item(f"BLOCK_{what}_{place % columns}_{place // columns}", "TIFF", bidx=band)
                for band in (1, raster.count)
                for place in np.unique(np.linspace(0, rows * columns - 1, 64).astype(int)).tolist()
                for what in ("OFFSET", "SIZE")
            ]
            about = [raster.shape, raster.dtypes, tuple(raster.transform), sorted(raster.tags().items()), blocks]
            return {"raster": _digest(repr(about).encode())}
    except ValueError:
        return {}


def _told_by_server(address: str) -> Facts:
    """Facts of a file on a web server; {} if it tells nothing, `ABSENT` if it says that there is none.

    A part is asked for, because an address may be signed for GET alone, and its head if that is refused.
    """
    facts: Facts = {}
    for method, part in (("GET", f"bytes=0-{END_BYTES - 1}"), ("HEAD", "")):
        answer = _answer(address, method, part)
        if isinstance(answer, dict):
            facts = answer
            break
        if answer in (404, 410):
            return ABSENT
        if not answer:
            break
    size = facts.get("size", 0)
    if "start" in facts and size > END_BYTES and not facts.keys() & {"etag", "modified"}:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            end = _asked(address, "GET", f"bytes={size - END_BYTES}-{size - 1}")
            facts |= {"end": end["start"]} if end.get("part") else {}
    return {fact: value for fact, value in facts.items() if fact != "part"}


def _answer(address: str, method: str, part: str) -> Facts | int:
    """Asks a server again if it is busy. Returns facts, or the status by which it refuses them; 0 if it does not answer."""
    status = 0
    for wait_s in WAITS_S:
        time.sleep(wait_s)
        try:
            return _asked(address, method, part)
        except urllib.error.HTTPError as error:
            error.close()
            status = error.code
            if status not in (408, 425, 429) and status < 500:
                break
        except (OSError, http.client.HTTPException, ValueError):
            status = 0
    return status


def _asked(address: str, method: str, part: str) -> Facts:
    """Asks a server for the first bytes of a file, or of a part of it, and keeps what tells whether the file has changed."""
    quoted = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")
    headers = {"Accept-Encoding": "identity", "User-Agent": "specsar_jax"} | ({"Range": part} if part else {})
    request = urllib.request.Request(quoted, headers=headers, method=method)
    with hosts.urlopen(request, TIMEOUT_S) as answer:
        if answer.headers.get_content_type() == "text/html" and shown(address).endswith(BESIDE_REMOTE):
            return ABSENT  # a page that says so
        facts: Facts = {"part": answer.status == 206}
        total = (
            (answer.headers.get("Content-Range") or "").rpartition("/")[2]
            if facts["part"]
            else answer.headers.get("Content-Length")
        )
        if total and total.isdigit():
            facts["size"] = int(total)
        if etag := answer.headers.get("ETag"):
            facts["etag"] = etag.removeprefix("W/")
        modified = answer.headers.get("Last-Modified")
        if modified and modified != answer.headers.get("Date"):  # some servers give the time of the answer
            facts["modified"] = modified
        if method == "GET":
            start = answer.read(END_BYTES)
            if len(start) == min(END_BYTES, facts.get("size", END_BYTES)) or not facts.get("size"):
                facts["start"] = _digest(start)
    return facts


def _name(path: str) -> str:
    """Returns an absolute path, or an address without what is secret in it."""
    file, inside = file_of(path)
    if inside or not on_server(file):
        return shown(path) if _elsewhere(path) else absolute(path)
    return shown(file)


def _elsewhere(path: str) -> bool:
    return is_remote(path) or path.startswith("/vsi")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
