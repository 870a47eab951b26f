"""Placements of the one model: in turn over several devices, or shared out over ranks."""
