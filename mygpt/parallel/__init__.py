"""Placements of the one model: where its weights, its cache and its layers' work live."""
