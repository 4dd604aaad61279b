"""The option of commands that lets a raster take its pixels from anywhere; see `opening`, which takes longer to import."""

FLAG = "--any_vrt_source"

FLAG_HELP = (
    "read a VRT or another raster made of others (GTI, WMS) wherever it takes its pixels from: other folders, hosts, code in it. Without, "
    "the members of a VRT are GeoTIFF or JPEG 2000 files in its own folder"
)
