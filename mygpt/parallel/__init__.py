"""A model on several devices: layers in turn, or ranks that share the weights."""
