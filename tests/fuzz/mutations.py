"""Wrong files made of right ones: bytes, JSON trees and zips with a few faults, for the readers of strangers' files.

A reader may refuse a file by a line, or read it; whatever else comes is a fault of the reader. Seeded: the same files are tried each
time. `pytest -m slow tests/fuzz` tries many more.
"""

import copy
import functools
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

TIMES = pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
"""How many times as many examples are tried as the fast suite has."""

JUNK = [
    *(b"\0", b"\xff\xfe", b'"', b",", b"\n", b"\r", b"../", b"/", b"\\", b"nan", b"inf", b"-1", b"1e400", b"9" * 25, b"9" * 5000),
    *(b"\xef\xbb\xbf", b"A" * 140_000, b"<!", b"<a>" * 3000, b"'", b"{", b"[" * 3000, b'{"a":' * 1200, b"\xc2\xb2", b"null", b"true"),
    *(b"%s", b"\x1b[31m", b"\xed\xa0\x80", b"NaN", b"1e999", b"&a;", b"(" * 5000, b"-" * 5000, b"\xd9\xa3", b"CON", b" "),
]  # fmt: skip

LEAVES = [
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 10**400, 0.5, 1e308, -1e308, float("nan"), float("inf"), -0.0),
    *("", "x", "1", "a/../b", "../x", "/etc/passwd", "9" * 400, "9" * 5000, "2020-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    *("9999-12-31T23:59:59Z", "<b>", "\ud800", "\0", "\x1b[2J", "a\nb", "CON", ".", "NaN", "\N{ARABIC-INDIC DIGIT THREE}"),
    *([], {}, [[]], [None], ["x"], [1e308, 1e308], [[1, 2]], {"a": None}, {"": {}}, [[["x"]]]),
]  # fmt: skip


def deep(levels: int) -> Any:
    """A list in a list in a list ..."""
    tree: Any = []
    for _ in range(levels):
        tree = [tree]
    return tree


def bytes_like(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with a few places changed, put in, left out or cut off."""
    place = st.floats(0, 1)
    junk = st.sampled_from(range(len(JUNK))).map(lambda place: JUNK[place])
    edit = st.tuples(st.sampled_from(["byte", "in", "over", "out", "end"]), place, junk, st.integers(0, 255))

    def edited(edits: list[tuple[str, float, bytes, int]]) -> bytes:
        changed = bytearray(content)
        for kind, share, junk, number in edits:
            at = int(share * len(changed))
            if kind == "byte" and at < len(changed):
                changed[at] = number
            elif kind == "in":
                changed[at:at] = junk
            elif kind == "over":
                changed[at : at + 4] = junk
            elif kind == "out":
                del changed[at : at + 1 + number % 64]
            elif number < 64:
                del changed[at:]
        return bytes(changed)

    return st.lists(edit, min_size=1, max_size=4).map(edited)


def tree_like(tree: Any) -> st.SearchStrategy[Any]:
    """A tree of JSON with a few values of other types, names left out, and names that nobody knows."""
    fresh = [*(functools.partial(copy.deepcopy, leaf) for leaf in LEAVES), lambda: deep(70), lambda: deep(900)]
    value = st.sampled_from(range(len(fresh))).map(lambda place: fresh[place]())
    edit = st.tuples(st.sampled_from(["value", "value", "out", "more"]), st.floats(0, 1), value)

    def edited(edits: list[tuple[str, float, Any]]) -> Any:
        changed = copy.deepcopy(tree)
        for kind, share, leaf in edits:
            places = list(_places(changed))
            if not places:
                return leaf
            node, key = places[min(int(share * len(places)), len(places) - 1)]
            if kind == "out":
                del node[key]
            elif kind == "more" and isinstance(node, dict):
                node["strange"] = leaf
            else:
                node[key] = leaf
        return changed

    return st.lists(edit, min_size=1, max_size=3).map(edited)


def json_like(tree: Any) -> st.SearchStrategy[bytes]:
    """JSON text of a tree with faults, or a text with faults of the right tree."""
    return tree_like(tree).map(lambda changed: json.dumps(changed).encode()) | bytes_like(json.dumps(tree).encode())


def _places(tree: Any) -> Any:
    """Yields each node that holds others, with each of its keys. Goes no deeper than a right tree does."""
    level = [tree]
    for _ in range(12):
        inner = []
        for node in level:
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            for key in keys:
                yield node, key
                inner.append(node[key])
        level = inner


def zip_like(members: dict[str, bytes], names: bool = True) -> st.SearchStrategy[bytes]:
    """A zip with faults: in a member, in a name, a member left out, or in its own bytes."""

    def packed(of: dict[str, bytes]) -> bytes:
        with io.BytesIO() as file:
            with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                warnings.simplefilter("ignore")  # of names twice
                for name, content in of.items():
                    archive.writestr(name.partition("\0")[0][:60_000] or "x", content)
            return file.getvalue()

    one = st.sampled_from(sorted(members))
    changed = one.flatmap(lambda name: bytes_like(members[name]).map(lambda content: packed(members | {name: content})))
    renamed = one.flatmap(
        lambda name: bytes_like(name.encode()).map(
            lambda other: packed(
                {k: v for k, v in members.items() if k != name} | {other.decode("utf-8", "replace"): members[name]}
            )
        )
    )
    without = one.map(lambda name: packed({k: v for k, v in members.items() if k != name}))
    return changed | without | bytes_like(packed(members)) | (renamed if names else changed)


def tried(check: Callable[[Any], Any], contents: st.SearchStrategy[Any], examples: int, times: int) -> None:
    """Gives contents to a reader. It reads them, or says in one line why not; all else is a failure."""

    @hypothesis.settings(
        max_examples=examples * times,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],  # what fails is small enough, and trying it again costs minutes
    )
    @hypothesis.given(contents.map(_Shortly))
    def try_one(content: _Shortly) -> None:
        try:
            check(content.value)
        except (ValueError, OSError) as error:
            assert not isinstance(error, UnicodeError), error
            said = str(error)
            assert said and "\n" not in said and "\x1b" not in said and len(said) < 3000, said[:300]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hypothesis.errors.HypothesisWarning)  # of strategies that are long to write
        try_one()


class _Shortly:
    """A value that is not written out in full where it fails."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        try:
            said = repr(self.value)
        except RecursionError:
            said = "a tree that is too deep to write"
        return said if len(said) < 1200 else f"{said[:800]} ... {said[-200:]}"
