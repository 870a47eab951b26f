"""A checkpoint and options to a model that is ready to run; plans of the same without weights."""
