"""What tests of several rooms share."""

import runpy
import sys
from pathlib import Path

import pytest
from mmengine.visualization import Visualizer

ROOT = Path(__file__).parents[1]
# The smallest backbone with all its parts, attention in the last two.
ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1), num_heads=2)


def forget_visualizers() -> None:
    """Let the next runner build a visualizer, as one of a new process."""
    for cls in (Visualizer, *Visualizer.__subclasses__()):
        cls._instance_dict.clear()


def run_tool(patch: pytest.MonkeyPatch, folder: Path, tool: str,
             *args: object) -> None:
    """Run a tool in a folder, but in this process.

    Args:
        patch (MonkeyPatch): Takes the folder and the arguments back.
        folder (Path): The tool's working directory.
        tool (str): Such as 'train.py'.
        args: Its arguments.
    """
    forget_visualizers()
    patch.chdir(folder)
    patch.setattr(sys, 'argv', [tool, *map(str, args)])
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
