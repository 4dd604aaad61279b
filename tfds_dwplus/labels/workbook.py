"""Read the metadata workbook of Dynamic World's labels.

Enters: `v1_dw_tile_metadata_for_public_release.xlsx` of PANGAEA 10.1594/PANGAEA.933475. Leaves: one row for each labelled
tile, as text by column. `published` matches rows to tiles.
"""

import contextlib
import warnings
import xml.etree.ElementTree
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

_COLUMNS = ("dw_id", "hemisphere", "biome", "s2_product_id")
_SHEETS = ("expert", "non_expert")
_BROKEN = (zipfile.BadZipFile, KeyError, EOFError, OSError, zlib.error, xml.etree.ElementTree.ParseError)


def workbook_rows(path: Path) -> list[dict[str, str]]:
    """Reads the rows of both sheets: dw_id, hemisphere, biome and s2_product_id. An empty cell gives an empty text.

    Raises:
        ValueError: the file does not exist, is not a workbook or is cut short, or lacks the sheets or columns.
    """
    try:
        import openpyxl
    except ImportError:
        raise ValueError("reading the workbook needs openpyxl: pip install 'specsar_jax[acquire]'") from None
    if not path.is_file():
        raise ValueError(f"no workbook {path}; expected v1_dw_tile_metadata_for_public_release.xlsx of PANGAEA 933475")
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # openpyxl warns of styles, which are not read
        try:
            file = stack.enter_context(path.open("rb"))  # openpyxl does not close a file that it cannot read
            book = stack.enter_context(contextlib.closing(openpyxl.load_workbook(file, read_only=True, data_only=True)))
            sheets = [book[name] for name in book.sheetnames if name.strip().lower() in _SHEETS]
            if not sheets:
                raise ValueError(
                    f"{path} has the sheets {', '.join(book.sheetnames)}, expected {' and '.join(_SHEETS)}"
                )
            return [
                row
                for sheet in sheets
                for row in _sheet_rows(f"sheet {sheet.title} of {path}", sheet.iter_rows(values_only=True))
            ]
        except _BROKEN as error:
            raise ValueError(f"{path} is not a whole .xlsx workbook ({error}); download it again") from None


def _sheet_rows(sheet: str, cells: Iterator[tuple]) -> Iterator[dict[str, str]]:
    header = [str(cell or "").strip().lower() for cell in next(cells, ())]
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise ValueError(f"{sheet} has no column {', '.join(missing)}; it has {', '.join(header) or 'none'}")
    for line in cells:
        texts = ("" if cell is None else str(cell).strip() for cell in line)
        row = dict(zip(header, texts, strict=False))  # a line ends with its last filled cell
        yield {name: row.get(name, "") for name in _COLUMNS}
