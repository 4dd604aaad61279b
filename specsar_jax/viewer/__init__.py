"""The viewer: maps in the browser, by a local web server. Start in `shown.py`, which answers what the page asks for.

opening          from files to what is shown
shown            all that is shown: tiles, a pixel, areas in view and in a polygon
class_map        a map: its class ids in any rectangle
imagery          Sentinel-2 in natural colour
confidence       how sure the network was: fading, heat maps
agreement        where two maps have the same class
polygon          areas in a drawn polygon, as `specsar_jax.areas` measures them
origin           how a map was made, and what to beware of
shares           percentages that add up to 100
rasters          opening and reading, with overviews where a file has none
mercator         the geometry of web Mercator
map_server       the addresses of the page
page/            HTML, CSS and JavaScript modules, without a build step
"""

PORT = 8617
"""Default port of the page, used if it is free and none is given."""
