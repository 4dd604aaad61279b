"""Pages: the report and the map viewer, for the browser.

Enters: files of runs and maps. Leaves: one HTML page about runs (`report_page`), a local web server for a map (`map_server`),
and pictures of tiles. Templates and scripts lie beside the modules.
"""
