"""Matrices in bitsandbytes' 4-bit and 8-bit formats: made, read, written, multiplied with."""
