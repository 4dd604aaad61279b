"""Fields of settings: default, comment and range stand together, and are checked whenever a section is made, by whomever.

Knows no field: `config` lists them. `Section` is the base of a section's dataclass, `setting` makes a field of it; `parse` reads a
value from text by the field's type, `build` a section from JSON, `listing` is the table of all fields for --help.

Why not a library: tyro 1.0 was tried on these sections. It knows no ranges (train.patience=-1 is taken), its errors are boxes of five
to nine lines where scripts, `sweep` and logs read one `error:` line, and neither `model=PRESET` nor `model.widths=(8,16)`, as all
configs, sweeps and stored commands say, is its way. Its help reads well: `listing` says the same.
"""

import ast
import dataclasses
import difflib
import functools
import math
import numbers
import re
import textwrap
import types
import typing
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

import numpy as np

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field takes; of a tuple, each of its numbers."""

    least: float | int
    most: float | int = math.inf
    below: bool = False
    """Whether `most` itself is not taken."""
    or_zero: bool = False
    """Whether 0 is taken too, though it is less than `least`."""
    counts: tuple[int, ...] = ()
    """How many numbers a tuple may have; any number of them if empty."""

    def __contains__(self, value: float | int) -> bool:
        """Returns whether the field takes this number."""
        under = value < self.most if self.below else value <= self.most
        return (self.least <= value and under) or (self.or_zero and value == 0)

    def __str__(self) -> str:
        """Says the range in words: '0, or 32 to 16384', '0 or 2 numbers of 0 to 1'."""
        if self.most == math.inf:
            words = f"{self.least:g} or more"
        else:
            words = f"{_number(self.least)} to {'less than ' if self.below else ''}{_number(self.most)}"
        counted = " or ".join(map(str, self.counts))
        return (f"{counted} numbers of " if counted else "") + ("0, or " if self.or_zero else "") + words


@dataclasses.dataclass(frozen=True)
class Text:
    """The texts that a field takes; of a tuple, each of its texts."""

    pattern: str
    words: str
    """What the pattern asks for, in words."""

    def __contains__(self, value: str) -> bool:
        """Returns whether the field takes this text."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        """Says it in words."""
        return self.words


def setting(default: T, comment: str, within: Range | Text | None = None) -> T:
    """Returns a field of a section: its default, what it means, and what it takes; every number has a range."""
    return dataclasses.field(default=default, metadata={"comment": comment, "within": within})  # type: ignore[return-value]


class Section:
    """Base of the dataclass of a section, whose name is that of the class in small letters."""

    def __post_init__(self) -> None:
        """Checks all fields; whole numbers become floats and lists tuples where the field is one. Raises ValueError."""
        self.check()

    def check(self, *, but: Iterable[str] = ()) -> None:
        """Raises a ValueError, which names the field, unless all fields `but` these are within their ranges and fit each other."""
        kinds = field_types(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.name not in but:
                name = f"{type(self).__name__.lower()}.{field.name}"
                value = _typed(kinds[field.name], getattr(self, field.name), name)
                _check_within(field.metadata["within"], value, name)
                object.__setattr__(self, field.name, value)
        self.check_together()

    def check_together(self) -> None:
        """Raises a ValueError if fields, each within its range, do not fit each other."""


@functools.cache
def field_types(kind: type) -> dict[str, Any]:
    """Returns the type of each field of a dataclass."""
    return typing.get_type_hints(kind)


def build(kind: type[T], tree: Any, path: str = "", *, checked: bool = True) -> T:
    """Builds a dataclass of sections, or a section, from nested dictionaries.

    Args:
        kind: the dataclass.
        tree: values by field; fields that are not given keep their defaults.
        path: what stands before a field's name in an error.
        checked: False takes numbers and texts of the right type whatever their range.

    Raises:
        ValueError: an unknown field, or a value that the field does not take.
    """
    fields = field_types(kind)
    if not isinstance(tree, dict):
        raise ValueError(f"config {path.rstrip('.') or 'file'} is {_short(tree)}, expected fields and their values")
    values = {}
    for key, value in tree.items():
        if key not in fields:
            raise ValueError(f"no config field {_short(path + str(key))}{nearest(str(key), fields)}")
        if dataclasses.is_dataclass(fields[key]):
            values[key] = build(fields[key], value, f"{path}{key}.", checked=checked)
        else:
            values[key] = _typed(fields[key], value, path + key)
    if checked:
        return kind(**values)
    made = object.__new__(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        object.__setattr__(made, field.name, values.get(field.name, field.default))
    return made


def parse(kind: Any, text: str, name: str) -> Any:
    """Reads the value of a field from text by the field's type; quotes are not needed, and are taken off if there are any.

    Tuples are written with or without brackets: 'B2,B3', '(B2,B3)', 'B2'; '' and '()' are empty.

    Raises:
        ValueError: the text is no value of this type. The message has the field's `name`.
    """
    if typing.get_origin(kind) is tuple:
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1]
        item_kind = typing.get_args(kind)[0]
        return tuple(parse(item_kind, item.strip(), name) for item in inner.split(",") if item.strip())
    if kind is str or typing.get_origin(kind) is Literal:
        return _typed(kind, _unquoted(text), name)
    plain = text.strip()
    try:
        if kind is bool:
            return {"true": True, "false": False}[plain.lower()]
        return kind(plain)
    except (KeyError, ValueError):
        raise ValueError(f"config field {name} is {_short(text)}, expected {_kind_in_words(kind)}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns '; did you mean ...?' with the name that is most like this one, or nothing if none is."""
    near = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""


def listing(sections: Any, *, width: int = 120) -> str:
    """Returns a table of all fields of all sections: name and default, comment, and range or choices."""
    lines = []
    for section in dataclasses.fields(sections):
        values = getattr(sections, section.name)
        lines += ["", f"{section.name}: {_first_line(values)}"]
        for field in dataclasses.fields(values):
            lines += _row(
                section.name, field, field_types(type(values))[field.name], getattr(values, field.name), width
            )
    return "\n".join(lines[1:])


def _row(section: str, field: Any, kind: Any, value: Any, width: int) -> Iterator[str]:
    shown = ",".join(map(_number, value)) if isinstance(value, tuple) else _number(value)
    left = f"  {section}.{field.name}={shown.lower() if isinstance(value, bool) else shown}"
    taken = field.metadata["within"] or ""
    if typing.get_origin(kind) is Literal:
        taken = ", ".join(map(str, typing.get_args(kind)))
    text = field.metadata["comment"] + (f" [{taken}]" if taken else "")
    indent = " " * 40
    first = f"{left:<39} " if len(left) < 40 else f"{left}\n{indent}"
    yield first + f"\n{indent}".join(textwrap.wrap(text, width - 40))


def _first_line(section: Any) -> str:
    return (type(section).__doc__ or "").partition("\n")[0]


def _check_within(within: Range | Text | None, value: Any, name: str) -> None:
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"config field {name} is {_short(value)}, expected a finite number, {within}")
        if within is not None and item not in within:
            each = " each" if isinstance(value, tuple) and not getattr(within, "counts", ()) else ""
            raise ValueError(f"config field {name} is {_short(value)}, expected {within}{each}")
    if isinstance(within, Range) and within.counts and len(value) not in within.counts:
        raise ValueError(f"config field {name} is {_short(value)}, expected {within}")


def _typed(kind: Any, value: Any, name: str) -> Any:
    """Returns `value` as type `kind`: numpy's numbers become Python's, whole numbers floats, lists tuples; nothing else does."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if isinstance(value, str) and value in choices:
            return value
        near = nearest(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"config field {name} is {_short(value)}, expected one of {', '.join(choices)}{near}")
    boolean = isinstance(value, bool | np.bool_)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, tuple | list):
            return tuple(_typed(typing.get_args(kind)[0], item, name) for item in value)
    elif kind is float and isinstance(value, numbers.Real) and not boolean:
        try:
            return float(value)
        except OverflowError:
            return math.copysign(math.inf, value)
    elif kind is int and isinstance(value, numbers.Integral) and not boolean:
        return int(value)
    elif kind is bool and boolean:
        return bool(value)
    elif type(value) is kind:
        return value
    raise ValueError(
        f"config field {name} is {_short(value)} ({type(value).__name__}), expected {_kind_in_words(kind)}"
    )


def _kind_in_words(kind: Any) -> str:
    if isinstance(kind, types.GenericAlias):
        return f"{kind}, such as 1,2"
    words = {int: "int, a whole number", float: "float, a number", bool: "bool, true or false", str: "str, a text"}
    return words[kind]


def _unquoted(text: str) -> str:
    """Takes off quotes, which Python and older versions want around a text."""
    # One text and nothing else: of an expression, Python's parser takes memory and levels of its stack without end.
    if re.fullmatch(r"'([^'\\\n]|\\.)*'|\"([^\"\\\n]|\\.)*\"", text):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that Python does not know
                return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return text


def _number(value: Any) -> str:
    """Writes a number in full if it is whole; 4294967295, not 4.29497e+09."""
    return f"{value:g}" if isinstance(value, float) and (abs(value) < 1e6 or value != int(value)) else str(value)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
