"""What `accelerator.py` reads: what a compiled program moves."""
