"""What reproduces the measured tables of the pages; no part of the wheel."""

import mmqsdt  # noqa: F401  before any framework: brings mmcv's ops
