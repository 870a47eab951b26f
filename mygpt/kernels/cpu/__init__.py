"""Kernels in C for the CPU, and the Python that calls them."""
