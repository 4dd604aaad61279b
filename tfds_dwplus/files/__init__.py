"""Files of any kind, at the rim: addresses, outputs that are written whole, and bounded reading of what strangers made.

Enters: paths and addresses. Leaves: bytes that were checked, and files that are complete or absent.
"""
