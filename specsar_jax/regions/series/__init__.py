"""Series of maps of a region, one for each month, quarter or year, and the yearly maps that a filter in time makes of them.

Enters: the job of a region with its dates. Leaves: a folder of a region for each period, and one for each year. Start at
`series_map`; `filters` has the mathematics.
"""
