"""Sequences of token ids: sampled, speculated, decoded, turned into text."""
