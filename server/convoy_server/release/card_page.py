"""card.html: the release card for people; one file, no script, nothing from outside."""

from itertools import groupby
from pathlib import Path

import jinja2

from convoy_server.release.card import Card
from convoy_server.release.gates import AT_LEAST
from convoy_server.report.html import count, figure, percent, size

_HERE = Path(__file__).parent


def render_card(card: Card) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_HERE, _HERE.parent / "report"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": count,
        "size": size,
        "figure": figure,
        "words": lambda text: text.replace("_", " "),
    }
    return environment.get_template("card.html.j2").render(
        card=card,
        origin=card.lineage.origin,
        measured=card.measured,
        at_least=AT_LEAST,
        slices={by: list(parts) for by, parts in groupby(card.slices, lambda part: part.by)},
    )
