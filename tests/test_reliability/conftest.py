import sys
from pathlib import Path

import pytest

# The faults, which ``make torture`` injects more of.
sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope='package')
def workplace(tmp_path_factory) -> Path:
    """A folder with a few digits and the configs of short trainings."""
    pytest.importorskip('sklearn')
    pytest.importorskip('mmpretrain.models')  # once, for all children
    pytest.importorskip('mmseg.models')
    from torture.training import prepare
    folder = tmp_path_factory.mktemp('workplace')
    prepare(folder)
    return folder
