"""Checkpoints as streams of (name, tensor): read, put into a model, written."""
