"""The model: single-device code. It knows no placement, no file and no model's name."""
