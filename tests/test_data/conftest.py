"""Fixtures of the tests of data sets."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_data import MAKERS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    """``make('coco')`` writes a data set and returns its folder."""
    return lambda kind: MAKERS[kind](tmp_path / kind)


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch,
             tmp_path: Path) -> Callable[..., None]:
    """``run_tool('train.py', *arguments)`` in ``tmp_path``."""
    from mmengine.visualization import Visualizer

    def run(tool: str, *args: object) -> None:
        for cls in (Visualizer, *Visualizer.__subclasses__()):
            cls._instance_dict.clear()  # each run wants its own
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')

    return run


@pytest.fixture
def edit_json() -> Callable:
    """``edit_json(path, change)``: change(content) alters it in place."""

    def edit(path: Path, change: Callable[[dict], None]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit
