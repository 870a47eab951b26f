"""From a checkpoint and options to a model that is ready to run, and plans of it without weights."""
