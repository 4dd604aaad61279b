"""Items of a STAC API: what they say of themselves, where they lie, and their files.

Enters: STAC items. Leaves: times, platforms, acquisitions and baselines (`stac_items`), shares of a grid that they cover
(`footprints`), and their assets as opened bands (`stac_assets`).
"""
