"""What a bucket holds at a place, as far as it can stand on a disk."""

import re
import sys
from pathlib import Path, PurePosixPath

from tfds_dwplus.files.buckets.places import Place, fault_of, is_sent
from tfds_dwplus.files.buckets.servers import Entry, Server, tried
from tfds_dwplus.files.strangers import one_line

SENDING = ".sending"
"""Name of the object that a folder holds while its files are sent."""

MOST_OBJECTS = 2_000_000


def listed(server: Server, place: Place, only: str) -> dict[str, Entry]:
    """Returns the objects of a place, and of the unfinished work beside it, without those of folders that are being sent.

    Args:
        server: the bucket.
        place: a file or a folder in it.
        only: pattern of the names below the place that are wanted; all if empty.

    Raises:
        ValueError: there are too many.
        OSError: the bucket cannot be read.
    """
    from tfds_dwplus.files.workplaces import beside  # as in `cache_folder`

    own = PurePosixPath(place.name)
    prefixes = [f"{place.name}/" if place.name else ""]
    if place.name:
        prefixes.append(f"{own.with_name(beside(Path(own.name)).name)}/")

    def found_there() -> dict[str, Entry]:
        found = {}
        for prefix in prefixes:
            found |= server.list(prefix, MOST_OBJECTS + 1)
        if place.name and place.name in server.list(place.name, 1):  # a file, and those beside it: .aux.xml, .dbf
            of_file = server.list(f"{own.with_suffix('')}." if own.suffix else place.name, MOST_OBJECTS + 1)
            found |= {name: entry for name, entry in of_file.items() if PurePosixPath(name).parent == own.parent}
        return found

    found: dict[str, Entry] = tried(place.address, found_there)
    if len(found) > MOST_OBJECTS:
        raise ValueError(f"{place.address} holds more than {MOST_OBJECTS} objects; give a folder in it")
    sending = sorted(name.removesuffix(SENDING) for name in found if name.endswith(f"/{SENDING}"))
    for folder in sending:
        what = Place(place.scheme, place.bucket, folder.rstrip("/")).address
        print(f"note: {what} is not read: it is being sent, or who sent it was stopped before it was whole", file=sys.stderr)  # fmt: skip
    wanted = {
        name: entry
        for name, entry in found.items()
        if not name.endswith("/")  # which tools make to show a folder
        and not any(name.startswith(folder) for folder in sending)
        and is_sent(name)
        and (not only or re.fullmatch(only, name.removeprefix(place.name).lstrip("/")))
    }
    folders = {str(folder) for name in wanted for folder in PurePosixPath(name).parents}
    if odd := {name for name in wanted if fault_of(name) or name in folders}:
        first = min(odd)
        fault = fault_of(first) or f"{one_line(first, 80)!r} is a folder too"
        print(f"note: {place.address}: {fault}; {len(odd)} such objects are not read", file=sys.stderr)
    return {name: entry for name, entry in wanted.items() if name not in odd}
