"""Published Dynamic World labels: finding the label tiles, and reading their pixels.

Enters: the zip files of PANGAEA and Zenodo, or folders of their content, and the metadata workbook. Leaves: a list of
label tiles (place, date, annotator), and for each the class codes on its 10 m grid.

Start with `published`, which finds the tiles. `label_files` reads their pixels; `workbook` reads the metadata.
"""
