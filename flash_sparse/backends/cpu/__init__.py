"""Attention on CPUs, by kernels that Numba compiles when they are first used."""
