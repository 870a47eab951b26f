"""Checkpoints as streams of (name, tensor): read one, fill a model from it, write one."""
