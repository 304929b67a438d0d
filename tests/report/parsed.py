"""Parses the report page, so that tests check the text that a reader sees."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags with attributes, visible text, and the cells of every table row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.items: list[str] = []
        """Text of every list item."""
        self._open: list[str] = []
        self.feed(html)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def row(self, first: str) -> list[str]:
        """The one row whose first cell reads ``first``, without that cell."""
        found = [row[1:] for row in self.rows if row and row[0] == first]
        assert len(found) == 1, f"{len(found)} rows begin with {first!r}"
        return found[0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "li":
            self.items.append("")
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.texts.append(data)
        clean = " ".join(data.split())
        if clean and ("td" in self._open or "th" in self._open):
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {clean}".strip()
        if clean and "li" in self._open:
            self.items[-1] = f"{self.items[-1]} {clean}".strip()
