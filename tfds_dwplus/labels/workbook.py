"""Read the metadata workbook of Dynamic World's labels.

Enters: `v1_dw_tile_metadata_for_public_release.xlsx` of PANGAEA 10.1594/PANGAEA.933475. Leaves: one row for each labelled
tile, as text by column. `published` matches rows to tiles.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from tfds_dwplus.files import archives
from tfds_dwplus.files.strangers import MOST_XML_BYTES, one_line, parse_xml

_COLUMNS = ("dw_id", "hemisphere", "biome", "s2_product_id")
_SHEETS = ("expert", "non_expert")

_MOST_ROWS = 1_000_000
_MOST_COLUMNS = 1000
_MOST_MEMBERS = 1000
"""Files in the zip that a workbook is."""


def workbook_rows(path: Path) -> list[dict[str, str]]:
    """Reads the rows of both sheets: dw_id, hemisphere, biome and s2_product_id. An empty cell gives an empty text.

    Raises:
        ValueError: the file does not exist, is not a workbook or is cut short, unpacks to too much, or lacks the sheets or columns.
    """
    try:
        import openpyxl
    except ImportError:
        raise ValueError("reading the workbook needs openpyxl: pip install 'specsar_jax[acquire]'") from None
    if not path.is_file():
        raise ValueError(f"no workbook {path}; expected v1_dw_tile_metadata_for_public_release.xlsx of PANGAEA 933475")
    _check_parts(path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # openpyxl warns of styles, which are not read
        try:
            file = stack.enter_context(path.open("rb"))  # openpyxl does not close a file that it cannot read
            book = stack.enter_context(contextlib.closing(openpyxl.load_workbook(file, read_only=True, data_only=True)))
            sheets = [book[name] for name in book.sheetnames if name.strip().lower() in _SHEETS]
            if not sheets:
                raise _WorkbookError(
                    f"{path} has the sheets {one_line(', '.join(book.sheetnames))}, expected {' and '.join(_SHEETS)}"
                )
            return [
                row
                for sheet in sheets
                for row in _sheet_rows(
                    f"sheet {one_line(sheet.title, 40)} of {path}",
                    sheet.iter_rows(values_only=True, max_row=_MOST_ROWS, max_col=_MOST_COLUMNS),
                )
            ]
        except _WorkbookError:
            raise
        except (
            Exception
        ) as error:  # openpyxl raises what happens to it: TypeError of an attribute that it does not know
            raise ValueError(f"{path} is not a whole .xlsx workbook ({one_line(error)}); download it again") from None


class _WorkbookError(ValueError):
    """A workbook that can be read, but is not that of the labels."""


def _check_parts(path: Path) -> None:
    """Raises ValueError if the zip that a workbook is unpacks to too much, or its XML declares entities: openpyxl reads all of it."""
    try:
        with archives.opened(path) as archive:
            if len(archive.infolist()) > _MOST_MEMBERS:
                raise ValueError(f"it has {len(archive.infolist())} files")
            for member in archive.infolist():
                if member.filename.endswith((".xml", ".rels")):
                    parse_xml(archives.read_member(archive, member, MOST_XML_BYTES), member.filename, keep=False)
                elif fault := archives.fault_of_member(member):
                    raise ValueError(fault)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole .xlsx workbook ({one_line(error)}); download it again") from None


def _sheet_rows(sheet: str, cells: Iterator[tuple]) -> Iterator[dict[str, str]]:
    header = [str(cell or "").strip().lower()[:100] for cell in next(cells, ())]
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        found = one_line(", ".join(header)) or "none"
        raise _WorkbookError(f"{sheet} has no column {', '.join(missing)}; it has {found}")
    for line in cells:
        texts = ("" if cell is None else str(cell).strip() for cell in line)
        row = dict(zip(header, texts, strict=False))  # a line ends with its last filled cell
        yield {name: row.get(name, "") for name in _COLUMNS}
