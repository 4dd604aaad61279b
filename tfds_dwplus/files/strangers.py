"""Bounded reading of what strangers made: JSON, CSV, XML, the sizes of rasters, and names of files.

Enters: files and texts that anyone may have made. Leaves: their content, after checks of size, depth, types and numbers that come
before the memory is taken; or a `ValueError` of one line that names the file. `archives` does the same for zips.

Why not defusedxml: it forbids the same, entities and DTDs, and bounds neither depth nor size.
"""

import csv
import io
import json
import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

MOST_JSON_BYTES = 256 << 20
"""Of a JSON file. The outlines of a continent are some tens of MB."""

MOST_JSON_DEPTH = 64
"""Lists and objects inside one another. A MultiPolygon of a collection of features has eight, STAC items about ten."""

MOST_CSV_BYTES = 256 << 20
MOST_CSV_FIELD = 1 << 16
"""Characters of a field of a table: a tile may name hundreds of scenes."""

MOST_XML_BYTES = 64 << 20
"""Of an XML file. The metadata of Sentinel-2 are below 1 MB, a VRT of a country's scenes has some."""

MOST_XML_DEPTH = 100
MOST_XML_ELEMENTS = 1_000_000
"""Of a tree that is kept, some 200 bytes each."""

MOST_NAME_BYTES = 200
"""Of a name that becomes that of a file, in UTF-8: file systems take 255, with what is put before and after it."""

MOST_BANDS = 10_000
MOST_SIDE_PX = 10_000_000
"""Of a raster. The earth in pixels of 10 m has four million around the equator."""

MOST_BLOCK_BYTES = 2 << 30
"""Of a block of a raster, which is read as a whole. A granule of Sentinel-2 in one strip has 241 MB as uint16."""

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
"""Names that Windows keeps for devices, with any extension."""


def one_line(reason: Any, most: int = 300) -> str:
    """Returns a text on one line, at most `most` characters, with what a terminal would execute or not print as '?'."""
    text = " ".join(str(reason)[: 4 * most].split())
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read_bytes(path: Path, most: int) -> bytes:
    """Reads a file of at most `most` bytes.

    Raises:
        ValueError: it has more, or is no file.
        OSError: it is missing or cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1) if stat.S_ISREG(path.stat().st_mode) else None
    if content is None:
        raise ValueError(f"{path} is no file; expected one to read")
    if len(content) > most:
        raise ValueError(f"{path} has more than {most} bytes, expected less; is it the right file?")
    return content


def read_json(path: Path, *, finite: bool = True, unpaired: bool = False) -> Any:
    """Reads a JSON file with `parse_json`. Raises ValueError, or OSError if it cannot be read."""
    return parse_json(read_bytes(path, MOST_JSON_BYTES), str(path), finite=finite, unpaired=unpaired)


def read_object(path: Path, *, finite: bool = True, unpaired: bool = False) -> dict[str, Any]:
    """Reads a JSON file that holds an object. Raises ValueError if it does not, or OSError if it cannot be read."""
    return an_object(read_json(path, finite=finite, unpaired=unpaired), str(path))


def parse_json(content: bytes | str, name: str, *, finite: bool = True, unpaired: bool = False) -> Any:
    """Parses JSON.

    Args:
        content: in UTF-8 if it is bytes.
        name: what an error begins with.
        finite: whether NaN, Infinity and numbers out of the range of a float, such as 1e999, are refused.
        unpaired: whether half a surrogate pair is taken: as Python writes a path whose bytes are no text.

    Returns:
        The tree. A whole number of more than 64 bits is a float, as in other languages.

    Raises:
        ValueError: it is not JSON, too large, nested too deeply, names a key twice, or holds half a surrogate pair.
    """
    if len(content) > MOST_JSON_BYTES:
        raise ValueError(f"{name} has {len(content)} bytes of JSON, expected {MOST_JSON_BYTES} at most")

    def number(text: str) -> float:
        value = float(text)
        if finite and not math.isfinite(value):
            raise ValueError(f"{text[:20]} is no number, or out of range")
        return value

    def whole(text: str) -> float | int:
        return int(text) if len(text) < 19 else number(text) if abs(float(text)) >= 2**63 else int(text)

    try:
        text = content if isinstance(content, str) else _decoded(content)
        tree = json.loads(text, parse_float=number, parse_int=whole, parse_constant=number, object_pairs_hook=_unique)
        check_tree(tree, unpaired=unpaired)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply, expected {MOST_JSON_DEPTH} levels at most") from None
    except ValueError as error:
        raise ValueError(f"{name} is not JSON ({one_line(error)})") from None
    return tree


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8, at byte {error.start}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it names {twice[:80]!r} twice")
    return tree


def check_tree(tree: Any, *, unpaired: bool = False) -> None:
    """Raises ValueError if a tree is too deep, or holds half a surrogate pair, which no file or terminal takes."""
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > MOST_JSON_DEPTH:
            raise ValueError(f"nested too deeply, expected {MOST_JSON_DEPTH} levels at most")
        inner: list[Any] = []
        for node in level:
            if type(node) is dict:
                for key in node if not unpaired else ():
                    _check_text(key)
                inner += node.values()
            elif type(node) is list:
                inner += node
            elif type(node) is str and not unpaired:
                _check_text(node)
        level = inner


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the text {text[:40]!a} holds half a surrogate pair") from None


def an_object(value: Any, what: str) -> dict[str, Any]:
    """Returns `value` if it is an object of JSON. Raises ValueError if not."""
    return value if isinstance(value, dict) else _refused(value, what, "an object")


def a_list(value: Any, what: str) -> list[Any] | tuple[Any, ...]:
    """Returns `value` if it is a list, or a tuple as libraries make of one. Raises ValueError if not."""
    return value if isinstance(value, list | tuple) else _refused(value, what, "a list")


def a_text(value: Any, what: str) -> str:
    """Returns `value` if it is a text. Raises ValueError if not."""
    return value if isinstance(value, str) else _refused(value, what, "a text")


def a_number(value: Any, what: str) -> float:
    """Returns `value` if it is a finite number, as a float. Raises ValueError if not."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if good and abs(value) < 1e300:  # larger ones overflow as soon as they are added
        return float(value)
    return _refused(value, what, "a finite number")


def a_count(value: Any, what: str) -> int:
    """Returns `value` if it is a whole number from 0 that fits in 63 bits. Raises ValueError if not."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if good else _refused(value, what, "a whole number, 0 or more")


def numbers(value: Any, what: str) -> list[float]:
    """Returns `value` if it is a list of finite numbers. Raises ValueError if not."""
    return [a_number(item, f"{what}[{place}]") for place, item in enumerate(a_list(value, what))]


def texts(value: Any, what: str) -> list[str]:
    """Returns `value` if it is a list of texts. Raises ValueError if not."""
    return [a_text(item, f"{what}[{place}]") for place, item in enumerate(a_list(value, what))]


def _refused(value: Any, what: str, expected: str) -> NoReturn:
    kinds = {dict: "an object", list: "a list", type(None): "null"}
    found = kinds.get(type(value)) or one_line(repr(value), 60)
    raise ValueError(f"{what} is {found}, expected {expected}")


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Reads a table with a header. A row that is shorter than the header lacks its last columns.

    Returns:
        The names of the columns, and the rows by column.

    Raises:
        ValueError: it is not UTF-8, too large, has a field of more than `MOST_CSV_FIELD` characters or a row longer than the header.
        OSError: it cannot be read.
    """
    content = read_bytes(path, MOST_CSV_BYTES)
    try:
        text = _decoded(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; save it as CSV in UTF-8") from None
    lines = csv.reader(_short_enough(io.StringIO(text, newline=""), path))
    rows = []
    try:
        header = next(lines, [])
        for line in lines:
            if len(line) > len(header):
                raise ValueError(f"{path}: line {lines.line_num} has {len(line)} fields, its header {len(header)}")
            if line:
                rows.append(dict(zip(header, line, strict=False)))
            if any(len(field) > MOST_CSV_FIELD for field in line):
                raise csv.Error("field too large")
    except csv.Error as error:
        raise ValueError(
            f"{path}: line {lines.line_num} is no line of a table ({one_line(error)}); a field has {MOST_CSV_FIELD} characters "
            "at most"
        ) from None
    return header, rows


def _short_enough(lines: Iterator[str], path: Path) -> Iterator[str]:
    """Passes on the lines of a file; a line of megabytes would be parsed into millions of fields."""
    for number, line in enumerate(lines, 1):
        if len(line) > 16 * MOST_CSV_FIELD:
            raise ValueError(
                f"{path}: line {number} has {len(line)} characters, expected {16 * MOST_CSV_FIELD} at most"
            )
        yield line


def parse_xml(content: bytes, name: str, *, keep: bool = True) -> ElementTree.Element | None:
    """Parses XML without entities: a DTD with declarations is refused, one that is only named is not read.

    Args:
        content: of the file.
        name: what an error begins with.
        keep: False only checks it, so that another library may read it.

    Returns:
        The tree, with tags as of ElementTree, `{namespace}tag`; None if it is not kept.

    Raises:
        ValueError: it is not XML, too large or nested too deeply, or declares entities.
    """
    if len(content) > MOST_XML_BYTES:
        raise ValueError(f"{name} has {len(content)} bytes of XML, expected {MOST_XML_BYTES} at most")
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate(None, "}")
    parser.buffer_text = True
    depth = count = 0

    def full(tag: str) -> str:
        return "{" + tag if "}" in tag else tag

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > MOST_XML_DEPTH or count > MOST_XML_ELEMENTS:
            raise ValueError("its elements are too many or nested too deeply")
        builder.start(full(tag), {full(key): value for key, value in attributes.items()})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(full(tag))

    def doctype(_name: str, _system: str | None, _public: str | None, declares: int) -> None:
        if declares:
            raise ValueError("it declares entities or elements, which are not read")

    def entity(*_: Any) -> None:
        raise ValueError("it declares entities, which are not read")

    def counted(_tag: str, _attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_XML_DEPTH:
            raise ValueError("its elements are nested too deeply")

    def uncounted(_tag: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartElementHandler, parser.EndElementHandler = (start, end) if keep else (counted, uncounted)
    if keep:
        parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler, parser.EntityDeclHandler = doctype, entity
    try:
        parser.Parse(content, True)
        return builder.close() if keep else None
    # LookupError: an encoding that Python does not know; AssertionError: TreeBuilder without an element.
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        raise ValueError(f"{name} is not XML ({one_line(error)})") from None


def check_raster_bytes(name: Any, width: int, height: int, bands: int, pixel_bytes: int, most: int) -> None:
    """Checks what a raster takes in memory by its header, before it is read.

    Args:
        name: of the raster.
        width: in pixels.
        height: in pixels.
        bands: number of bands that are read.
        pixel_bytes: of a pixel of a band.
        most: bytes that it may take.

    Raises:
        ValueError: it takes more.
    """
    needed = width * height * bands * pixel_bytes
    if needed > most:
        raise ValueError(
            f"{name} has {width} x {height} pixels, which take {needed / 2**20:,.0f} MB; expected {most / 2**20:,.0f} MB at most: cut "
            "it into smaller files"
        )


def fault_of_blocks(raster: Any) -> str:
    """Returns why an opened raster of rasterio cannot be read in bounded memory, by its header; '' if it can.

    GDAL takes the memory of a whole block, which may be larger than the raster, and keeps facts of each band and block.
    """
    if raster.count > MOST_BANDS:
        return f"it has {raster.count} bands, expected {MOST_BANDS} at most"
    if max(raster.shape) > MOST_SIDE_PX:
        return f"it has {raster.height} x {raster.width} pixels, expected {MOST_SIDE_PX} a side at most"
    for (rows, columns), kind in zip(raster.block_shapes, raster.dtypes, strict=True):
        size = rows * columns * int("".join(filter(str.isdigit, kind)) or 64) // 8
        if size > MOST_BLOCK_BYTES:
            return (
                f"its blocks have {rows} x {columns} pixels, {size / 2**20:,.0f} MB; expected {MOST_BLOCK_BYTES / 2**20:,.0f} MB at "
                "most: write it again in tiles of 512 x 512"
            )
    return ""


def fault_of_name(name: str) -> str:
    """Returns why a text cannot be the name of a file in a folder, 'is empty'; '' if it can.

    The name of a tile becomes that of its files, so it must not be a path, hidden, or what a file system does not take.
    """
    if not name or not name.strip():
        return "is empty"
    if not name.isprintable():  # half a surrogate pair is not
        return "holds characters that cannot be printed"
    if len(name.encode()) > MOST_NAME_BYTES:
        return f"has {len(name.encode())} bytes, expected {MOST_NAME_BYTES} at most"
    if name.startswith("."):
        return "begins with a dot"
    if found := re.search(r"[/\\]", name):
        return f"holds {found[0]!r}"
    if name.partition(".")[0].lower() in _RESERVED:
        return "is a device's on Windows"
    return ""


def a_name(value: Any, what: str) -> str:
    """Returns `value` if it can be the name of a file. Raises ValueError if not."""
    text = a_text(value, what)
    if fault := fault_of_name(text):
        raise ValueError(f"{what} {one_line(repr(text), 80)} {fault}; expected a name, not a path")
    return text
