# SPDX-License-Identifier: Apache-2.0
"""Rectangles, lines and words, written as SVG and as PNG.

The two files show the same: both are made from one list of shapes. Coordinates are pixels of the
SVG; the PNG has SCALE pixels for each. Why not a library for charts: docs/decisions/0007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

SCALE = 2  # pixels of the PNG for one of the SVG: sharp on screens of high resolution
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
"""SVG's text-anchor, and Pillow's: on the baseline, by left end, middle or right end."""


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    """`#rrggbb`, as all colours."""


@dataclass(frozen=True, slots=True)
class Stroke:
    """A straight line, one pixel wide."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str


@dataclass(frozen=True, slots=True)
class Words:
    """One line of text; `y` is its baseline."""

    x: float
    y: float
    text: str
    size: int
    """Pixels."""
    colour: str = "#24292f"
    anchor: str = "start"
    """Which part of it is at `x`: `start`, `middle` or `end`."""


Shape = Box | Stroke | Words


@dataclass(frozen=True, slots=True)
class Drawing:
    """Shapes, the first below the others, on white."""

    width: int
    height: int
    shapes: Sequence[Shape]
    title: str
    """For who can't see it."""

    def svg(self) -> str:
        """Return it as SVG 1.1."""
        size = f'width="{self.width}" height="{self.height}"'
        lines = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
                f'viewBox="0 0 {self.width} {self.height}" font-family="{FONT}" role="img">'
            ),
            f"<title>{escape(self.title)}</title>",
            f'<rect {size} fill="#ffffff"/>',
            *map(_element, self.shapes),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def write_png(self, path: Path) -> None:
        """Write it as PNG. Raises OSError."""
        from PIL import Image, ImageDraw, ImageFont  # 30 ms: only who draws pays

        image = Image.new("RGB", (self.width * SCALE, self.height * SCALE), "#ffffff")
        pen = ImageDraw.Draw(image)
        for shape in self.shapes:
            match shape:
                case Box(x, y, width, height, fill):
                    corners = (x, y, x + width, y + height)
                    pen.rectangle([round(end * SCALE) for end in corners], fill=fill)
                case Stroke(x1, y1, x2, y2, colour):
                    ends = [round(end * SCALE) for end in (x1, y1, x2, y2)]
                    pen.line(ends, fill=colour, width=SCALE)
                case Words(x, y, text, size, colour, anchor):
                    font = ImageFont.load_default(size * SCALE)
                    at = (x * SCALE, y * SCALE)
                    pen.text(at, text, fill=colour, font=font, anchor=ANCHORS[anchor])
        image.save(path, optimize=True)


def _element(shape: Shape) -> str:
    match shape:
        case Box(x, y, width, height, fill):
            return (
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                f'fill="{fill}"/>'
            )
        case Stroke(x1, y1, x2, y2, colour):
            return (
                f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
            )
        case Words(x, y, text, size, colour, anchor):
            return (
                f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
                f'text-anchor="{anchor}">{escape(text)}</text>'
            )
