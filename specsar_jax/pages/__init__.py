"""Pages: the report, for the browser, and what other pages need too: classes of maps, second colours, a local web server.

Enters: files of runs. Leaves: one HTML page about runs (`report_page`), and pictures of tiles. Templates and scripts lie beside the modules.
"""
