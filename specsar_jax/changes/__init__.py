"""Change between two maps of one place: which class became which, where, and on how much ground. Start in `pairs.py`.

codes            the numbers of changes, their names and colours
pairs            two maps laid over each other, and how probable a change is
comparing        hectares of each change, window by window, on the way to a raster
change_files     the raster: cloud-optimised, with names and colours, and its style for QGIS
estimating       areas of change with 95 % intervals, by evaluations of both maps
tables           what is written of them: CSV, JSON, lines for a terminal
outcome          all of it, and where it goes
"""
