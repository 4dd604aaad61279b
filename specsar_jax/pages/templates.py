"""Templates of HTML pages."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def template(path: Path, filters: Mapping[str, Callable[..., Any]]) -> jinja2.Template:
    """Opens a template: what it is given is escaped, and what it names but is not given raises `jinja2.UndefinedError`.

    Args:
        path: file of the template.
        filters: functions that it calls, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(path.name)
