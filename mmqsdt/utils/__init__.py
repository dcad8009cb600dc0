"""Helpers for all packages: configs, frameworks, versions, text."""

from .lazy import lazy

PLACES = dict(
    FRAMEWORKS='.frameworks', TESTED_VERSIONS='.versions',
    build_model='.build', check_framework='.frameworks',
    config_names='.configs', find_config='.configs',
    get_config_path='.configs', load_batches='.build',
    tool_command='.configs', warn_untested_versions='.versions')
__all__ = [*PLACES]
__getattr__, __dir__ = lazy(__name__, PLACES, __all__)
