"""Imported by a config: its model is built, and trained, in float64."""

import torch

torch.set_default_dtype(torch.float64)
