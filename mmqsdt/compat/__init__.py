def install():
    """Placeholder until mmcv_ops lands."""
