"""SpecSAR-Former in JAX: land-cover maps from Sentinel-2 and Sentinel-1."""

__version__ = "0.1.0"
