"""The model: single-device code that knows of no placement, no file and no name of a model."""
