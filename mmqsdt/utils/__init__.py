"""Helpers for all packages: configs, frameworks, versions, text."""

from .build import build_model, load_batches
from .configs import config_names, find_config, get_config_path, tool_command
from .frameworks import FRAMEWORKS, check_framework
from .versions import TESTED_VERSIONS, warn_untested_versions

__all__ = [
    'FRAMEWORKS', 'TESTED_VERSIONS', 'build_model', 'check_framework',
    'config_names', 'find_config', 'get_config_path', 'load_batches',
    'tool_command', 'warn_untested_versions'
]
