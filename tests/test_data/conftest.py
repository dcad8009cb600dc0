"""Fixtures of the tests of data sets."""

import copy
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import shared
from faults import BASES
from mmengine.config import Config
from mmengine.registry import init_default_scope
from small_data import MAKERS

from mmqsdt.data.own_data import write_config
from mmqsdt.utils.frameworks import check_framework

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    """``make('coco')`` writes a data set and returns its folder."""
    return lambda kind: MAKERS[kind](tmp_path / kind)


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch,
             tmp_path: Path) -> Callable[..., None]:
    """``run_tool('train.py', *arguments)`` in ``tmp_path``."""
    return partial(shared.run_tool, monkeypatch, tmp_path)


@pytest.fixture
def edit_json() -> Callable:
    """``edit_json(path, change)``: change(content) alters it in place."""

    def edit(path: Path, change: Callable[[dict], None]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.fixture(scope='session')
def written(tmp_path_factory) -> Callable[[str], Config]:
    """A config for each kind, written once; its paths are relative."""

    @cache
    def write(kind: str) -> Config:
        folder = tmp_path_factory.mktemp('written')
        MAKERS[kind](folder / kind)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            return write_config(kind, kind, 'my.py', BASES[kind])

    return write


@pytest.fixture
def configure(written, make, tmp_path, monkeypatch) -> Callable[..., Config]:
    """``configure('coco')``: a small data set and a config that reads it."""

    def configured(kind: str) -> Config:
        make(kind)
        monkeypatch.chdir(tmp_path)
        cfg = copy.deepcopy(written(kind))
        pytest.importorskip(f'{cfg.default_scope}.models')
        check_framework(cfg)
        init_default_scope(cfg.default_scope)
        return cfg

    return configured
