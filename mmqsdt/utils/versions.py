"""Warn about library versions that were not tested."""

import warnings
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

# Distribution -> (first version tested, first version not tested); see
# docs/compatibility.md. Forks and original packages have the same import
# names.
TESTED_VERSIONS = {
    'torch': ('2.6', '2.15'),
    'spikingjelly': ('2.0.0', '2.1'),
    'onedl-mmengine': ('0.10.10', '0.11'),
    'onedl-mmcv': ('2.3.3', '2.4'),
    'onedl-mmdetection': ('3.5.0', '3.6'),
    'onedl-mmsegmentation': ('1.4.0', '1.5'),
    'onedl-mmpretrain': ('1.3.5', '1.4'),
    'mmengine': ('0.10.7', '0.11'),
    'mmcv': ('2.1', '2.3'),
}


def warn_untested_versions() -> None:
    """Warn once, in one line, about versions outside the tested range."""
    outside = []
    for name, (first, end) in TESTED_VERSIONS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if not Version(first) <= Version(found) < Version(end):
            outside.append(f'{name} {found} (tested: >={first},<{end})')
    if outside:
        warnings.warn(
            'mmqsdt was not tested with ' + ', '.join(outside) + '. It may '
            'work; if not, requirements.txt has a set that does.',
            stacklevel=3)
