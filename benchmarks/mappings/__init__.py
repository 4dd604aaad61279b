"""What `mapping.py` has done in processes of their own: scenes and networks made, maps drawn by `predict` and by PyTorch's tools."""
