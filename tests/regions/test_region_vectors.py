"""Polygons of a region: where they may not be written, and what is left when they cannot be."""

import pytest

pytest.importorskip("pyogrio", reason="extra 'polygons'")
pytest.importorskip("pyarrow", reason="extra 'polygons'")

from finished_region import finish, job_over

from specsar_jax.patches import vector_files
from specsar_jax.patches.asked import Asked
from specsar_jax.regions.vectors import claimed, write_vectors


def test_the_file_of_the_region_is_no_place_for_them(tmp_path):
    region = tmp_path / "region.geojson"
    region.write_text("{}")
    (tmp_path / "link.geojson").symlink_to(region)
    with (
        pytest.raises(ValueError, match=r"link\.geojson is the file of --geojson; give another name to write to$"),
        claimed(Asked(tmp_path / "link.geojson"), region),
    ):
        pass


def test_a_full_disk_leaves_the_blocks(tmp_path, monkeypatch, capsys):
    finish(job := job_over(tmp_path / "out"))
    before = sorted(job.output.rglob("*"))

    def full(*_, **__):
        raise OSError("cannot write the polygons: is the disk full?")

    monkeypatch.setattr(vector_files, "write_polygons", full)
    with pytest.raises(OSError, match="disk full"):
        write_vectors(job, sorted(job.output.glob("*.vrt")), Asked(tmp_path / "map.gpkg"))
    assert "note: all blocks of the map are kept" in capsys.readouterr().err
    assert sorted(job.output.rglob("*")) == before
