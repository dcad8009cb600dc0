"""How a model is trained, tested and used, on MMEngine's runner."""
