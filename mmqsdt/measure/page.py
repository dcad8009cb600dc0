"""One HTML page that has all in it: text, tables, pictures."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 0 auto;
       max-width: 62rem; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem;
     border-bottom: 1px solid #d0d7de; }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; white-space: nowrap; }
th, td { text-align: right; padding: .2rem .6rem;
         border-bottom: 1px solid #e4e8ec; }
th:first-child, td:first-child { text-align: left; }
.key td { font-weight: 600; background: #eef6ff; }
.note { color: #57606a; } pre { overflow-x: auto; font-size: .8rem;
        background: #f6f8fa; padding: .8rem; }
"""


class Page:
    """A page that grows from top to bottom.

    Args:
        title (str): Its heading.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.parts.append(f'<h2>{escape(text)}</h2>')

    def text(self, text: str, note: bool = False) -> None:
        """Add a paragraph; a note is paler."""
        kind = ' class="note"' * note
        self.parts.append(f'<p{kind}>{escape(text)}</p>')

    def picture(self, path: str | Path, alt: str) -> None:
        """Put a .png or .jpg into the page itself.

        Args:
            path (str | Path): The file.
            alt (str): What it shows, for those who cannot see it.
        """
        kind = 'png' if Path(path).suffix == '.png' else 'jpeg'
        data = base64.b64encode(Path(path).read_bytes()).decode()
        self.parts.append(f'<img alt="{escape(alt)}" '
                          f'src="data:image/{kind};base64,{data}">')

    def table(self, rows: Sequence[Sequence[str]],
              key: Sequence[int] = ()) -> None:
        """Add a table, its first row the heads.

        Args:
            rows (Sequence): Of cells.
            key (Sequence[int]): Rows to stress, the heads being row 0.
        """
        head, *body = rows
        lines = ['<tr>' + ''.join(f'<th>{escape(c)}</th>' for c in head)
                 + '</tr>']
        for i, row in enumerate(body, 1):
            kind = ' class="key"' if i in key else ''
            cells = ''.join(f'<td>{escape(c)}</td>' for c in row)
            lines.append(f'<tr{kind}>{cells}</tr>')
        self.parts.append(
            f'<div class="wide"><table>{"".join(lines)}</table></div>')

    def folded(self, title: str, text: str) -> None:
        """Add a long text that opens on a click."""
        self.parts.append(f'<details><summary>{escape(title)}</summary>'
                          f'<pre>{escape(text)}</pre></details>')

    def __str__(self) -> str:
        return '\n'.join([
            '<!DOCTYPE html>', '<html lang="en">', '<head>',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, '
            'initial-scale=1">',
            # Else a browser asks a server for one.
            '<link rel="icon" href="data:,">',
            f'<title>{escape(self.title)}</title>',
            f'<style>{STYLE}</style>', '</head>', '<body>',
            f'<h1>{escape(self.title)}</h1>', *self.parts, '</body>',
            '</html>', ''])
