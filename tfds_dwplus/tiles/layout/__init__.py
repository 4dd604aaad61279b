"""How rasters lie in a record, so that a crop decodes little more than itself.

Enters: rasters, or a file of records. Leaves: compressed blocks with an index (`blocks`), and parts of a record that are read
alone (`record_parts`).
"""
