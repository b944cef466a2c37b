"""An XML corpus as a stream of events, or one line that says which file and which rule."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from medsjax.errors import UserError


def events(path: Path) -> Iterator[tuple[str, Element]]:
    """("start" or "end", element) in the document's order; entities and DTDs are refused."""
    try:
        with open(path, "rb") as file:
            yield from ElementTree.iterparse(file, events=("start", "end"), forbid_dtd=True)
    except ParseError as error:
        line = error.position[0]
        raise UserError(f"{path}, line {line}: not XML, or cut short; fetch it again") from None
    except DefusedXmlException:
        raise UserError(f"{path}: declares a DTD or entities, which no corpus needs") from None
    except (LookupError, ValueError):
        raise UserError(f"{path}: its encoding cannot be read; fetch it again") from None


def text(element: Element | None) -> str:
    """The text in and below it, without the indentation of the lines; "" where there is none."""
    if element is None:
        return ""
    lines = "".join(element.itertext()).strip().split("\n")
    return "\n".join(line.strip() for line in lines)
