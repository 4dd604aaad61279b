"""Elements of SVG as `Markup`, in which every text is escaped."""

from typing import Any

from markupsafe import Markup, escape


def whole(width: float, height: float, label: str, drawn: list[Markup], kind: str, **more: str) -> Markup:
    """Returns a picture of so many pixels; `label` stands for it where it is not seen, `kind` is its class in the page's CSS."""
    attributes: dict[str, Any] = {"role": "img", "aria_label": label, "xmlns": "http://www.w3.org/2000/svg"} | more
    return element("svg", *drawn, class_=kind, viewBox=f"0 0 {width:g} {height:.0f}", **attributes)


def dot(kind: str, x: float, y: float, radius: float, tip: str) -> Markup:
    """Returns a dot with a text that is shown to who points at it."""
    return element("circle", element("title", tip), class_=kind, cx=x, cy=y, r=radius)


def text(content: str, x: float, y: float, anchor: str, **more: str) -> Markup:
    """Returns a line of text."""
    return element("text", content, x=x, y=y, text_anchor=anchor, **more)


def element(tag: str, *children: str | Markup, **attributes: Any) -> Markup:
    """Returns an element. In names of attributes `_` stands for `-`, and one at the end for none."""
    parts = (
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), f"{x:.1f}" if isinstance(x, float) else x)
        for name, x in attributes.items()
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), Markup("").join(parts), inside)
