"""Placements of the one model: layers in turn over several devices, or shards on several ranks."""
