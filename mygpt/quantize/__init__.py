"""How weights are stored and multiplied with: a registry of schemes, and layers that hold packed matrices."""
