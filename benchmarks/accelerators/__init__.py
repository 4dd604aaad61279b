"""What `accelerator.py` compiles for and reads: devices that need not be there, and what a compiled program moves."""
