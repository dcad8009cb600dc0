"""A page is whole: pictures inside, nothing that a browser would fetch."""

import base64
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from mmqsdt.measure.page import Page

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


class Reader(HTMLParser):
    """Collects pictures, cells and links, and sees that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.pictures, self.addresses = [], [], []
        self.words, self.cells = '', []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ('meta', 'link', 'img'):
            self.open.append(tag)
        if tag == 'img':
            assert attrs['alt']
            self.pictures.append(attrs['src'])
        self.addresses += [attrs[x] for x in ('src', 'href') if x in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open[-1:] == ['td']:
            self.cells.append(data)


def check_page(path: Path) -> Reader:
    """Open a page: with a browser too, if there is one."""
    reader = Reader(path.read_text(encoding='utf-8'))
    assert all(x.startswith('data:') for x in reader.addresses)
    for picture in reader.pictures:
        kind, data = picture.split(';base64,')
        assert kind == 'data:image/png'
        assert base64.b64decode(data)[1:4] == b'PNG'
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser:
        check_in_browser(browser, path)
    return reader


def check_in_browser(browser: str, path: Path) -> None:
    """Each picture is loaded, and nothing complains.

    A script that tells the sizes of all pictures is put into a copy.
    """
    probe = path.with_name('probe.html')
    probe.write_text(path.read_text(encoding='utf-8').replace(
        '</body>', '<script>onload = () => { document.title = JSON.stringify('
        '[...document.images].map(x => x.naturalWidth)); }; onerror = e => '
        '{ document.title = "error " + e; }</script></body>'),
        encoding='utf-8')
    done = subprocess.run(
        [browser, '--headless', '--no-sandbox', '--disable-gpu',
         '--enable-logging=stderr', '--virtual-time-budget=10000',
         '--window-size=400,800', '--dump-dom', f'file://{probe}'],
        capture_output=True, text=True, timeout=120)
    title = done.stdout.split('<title>')[1].split('</title>')[0]
    assert 'CONSOLE' not in done.stderr and not title.startswith('error')
    widths = title.strip('[]').split(',') if title != '[]' else []
    assert len(widths) == done.stdout.count('<img')
    assert all(int(width) > 0 for width in widths)


def test_a_page(tmp_path):
    matplotlib.image.imsave(tmp_path / 'x.png', np.zeros((4, 5)))
    page = Page('a <title> & more')
    page.heading('Numbers <1')
    page.text('a & b')
    page.table([['name', 'value'], ['x<y', '1'], ['z', '2']], [2])
    page.picture(tmp_path / 'x.png', 'a "picture"')
    page.folded('Config', "x = dict(type='A<B>')")
    (tmp_path / 'page.html').write_text(str(page), encoding='utf-8')
    reader = check_page(tmp_path / 'page.html')
    assert reader.cells == ['x<y', '1', 'z', '2']
    for words in ('a <title> & more', 'Numbers <1', "x = dict(type='A<B>')"):
        assert words in reader.words
    assert len(reader.pictures) == 1
    assert str(page).count('class="key"') == 1
    assert 'width=device-width' in str(page)


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)),
                    reason='no browser is installed')
def test_a_broken_picture_is_found(tmp_path):
    page = Page('x')
    (tmp_path / 'x.png').write_bytes(b'\x89PNG no picture')
    page.picture(tmp_path / 'x.png', 'broken')
    (tmp_path / 'page.html').write_text(str(page), encoding='utf-8')
    with pytest.raises(AssertionError):
        check_page(tmp_path / 'page.html')
