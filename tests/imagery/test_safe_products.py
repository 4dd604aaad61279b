"""Products of Sentinel-2 as ESA lays them out: bands, offsets of their digital numbers, clouds. Answers known beforehand."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_scenes import UTM, mapped, network, ramp, read, refusal, write

from specsar_jax import predict
from specsar_jax.trained.bundle import write_bundle

PRODUCT = "S2A_MSIL{level}_20230604T054641_N0509_R120_T43RCP_20230604T091217"


def safe(folder: Path, level: str, offset: int | None = -1000) -> Path:
    """A Sentinel-2 product as ESA lays it out, with three bands, of which one comes at two sizes in L2A."""
    product = folder / f"{PRODUCT.format(level=level)}.SAFE"
    images = product / "GRANULE" / f"L{level}_T43RCP_A041514_20230604T054941" / "IMG_DATA"
    for name, size_m in (("B02", 10), ("B02", 20), ("B11", 20), ("SCL", 20), ("TCI", 10)):
        if level == "1C" and (name, size_m) in (("B02", 20), ("SCL", 20)):
            continue
        size = 320 // size_m
        path = images / f"T43RCP_20230604T054641_{name}.jp2"
        if level == "2A":
            path = images / f"R{size_m}m" / f"T43RCP_20230604T054641_{name}_{size_m}m.jp2"
        values = np.full((size, size), 9, np.uint8) if name == "SCL" else ramp(size, 1200 if name == "B02" else 1500)
        if name == "SCL":
            values[: size // 2] = 4
        if name == "TCI":  # the true-colour image, which is no band
            values = np.full((3, size, size), 99, np.uint8)
        lossless = {"driver": "JP2OpenJPEG", "quality": "100", "reversible": "yes"}
        write(path, values, UTM @ rasterio.Affine.scale(size_m / 10), **lossless)
    kind = {"1C": "RADIO", "2A": "BOA"}[level]
    offsets = (
        "".join(f'<{kind}_ADD_OFFSET band_id="{i}">{offset}</{kind}_ADD_OFFSET>' for i in range(13)) if offset else ""
    )
    quantum = {"1C": "QUANTIFICATION_VALUE", "2A": "BOA_QUANTIFICATION_VALUE"}[level]
    (product / f"MTD_MSIL{level}.xml").write_text(
        f'<?xml version="1.0"?><n1:P xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/x.xsd"><n1:General_Info><L>{offsets}</L>'
        f'<{quantum} unit="none">10000</{quantum}></n1:General_Info></n1:P>'
    )
    return product


def zipped(product: Path) -> Path:
    path = product.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(product.rglob("*")):
            archive.write(file, file.relative_to(product.parent))
    return path


@pytest.mark.parametrize("level", ["1C", "2A"])
def test_safe_products(tmp_path, capsys, level):
    product = safe(tmp_path, level)
    for path in (product, str(product), product / f"MTD_MSIL{level}.xml", zipped(product)):
        s2, _, valid = read([path], s2_bands=("B11", "B2"))
        np.testing.assert_array_equal(s2[..., 1], ramp(32, 200))
        assert s2.shape == (32, 32, 2) and valid.all()
        assert "1000 is subtracted" in capsys.readouterr().err
    np.testing.assert_array_equal(read([product], s2_offset=0)[0][..., 0], ramp(32, 1200))
    assert "subtracted" not in capsys.readouterr().err
    assert "no band B3 in" in refusal([product], s2_bands=("B2", "B3"))


def test_safe_product_of_before_the_offset(tmp_path, capsys):
    np.testing.assert_array_equal(read([safe(tmp_path, "2A", None)])[0][..., 0], ramp(32, 1200))
    assert capsys.readouterr().err == ""


def test_cut_zip_and_strange_metadata_are_refused(tmp_path):
    product = safe(tmp_path, "2A")
    path = zipped(product)
    path.write_bytes(path.read_bytes()[:1000])
    assert "not a whole zip file" in refusal([path])
    (product / "MTD_MSIL2A.xml").write_text("<a>")
    assert "not the metadata of a Sentinel-2 product" in refusal([product])
    assert "holds no Sentinel-2 SAFE product and no .tif" in refusal(
        [(tmp_path / "empty").mkdir() or tmp_path / "empty"]
    )


def test_offset_of_loose_files(tmp_path, capsys):
    bright = write(tmp_path / "B2.tif", ramp(low=1200))
    np.testing.assert_array_equal(read([bright])[0][..., 0], ramp(low=1200))
    assert "nothing says whether the offset" in capsys.readouterr().err
    np.testing.assert_array_equal(read([bright], s2_offset=1000)[0][..., 0], ramp(low=200))
    assert capsys.readouterr().err == ""
    read([write(tmp_path / "dark" / "B2.tif", ramp(low=300))])
    assert capsys.readouterr().err == ""  # a number below 1000 says that there is no offset
    named = write(tmp_path / f"{PRODUCT.format(level='2A')}" / "B02.tif", ramp(low=1200))
    np.testing.assert_array_equal(read([named.parent])[0][..., 0], ramp(low=200))
    assert "1000 is subtracted" in capsys.readouterr().err
    write(named, ramp(low=300))
    np.testing.assert_array_equal(read([named])[0][..., 0], ramp(low=300))
    assert "it was subtracted before" in capsys.readouterr().err
    by_a_user = write(
        tmp_path / "S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543" / "B02.tif", ramp(low=1200)
    )
    np.testing.assert_array_equal(read([by_a_user])[0][..., 0], ramp(low=1200))
    assert "nothing says whether" in capsys.readouterr().err
    tagged = write(tmp_path / "B3.tif", ramp(low=1200))
    with rasterio.open(tagged, "r+") as raster:
        raster.scales, raster.offsets = (1e-4,), (-0.1,)
    np.testing.assert_array_equal(read([tagged], s2_bands=("B3",))[0][..., 0], ramp(low=200))


def test_what_is_darker_than_the_offset_is_dark_not_missing(tmp_path):
    values = ramp(low=1200)
    values[0, :2] = 900, 0
    s2, _, valid = read([write(tmp_path / "B2.tif", values)], s2_offset=1000)
    assert s2[0, :2, 0].tolist() == [1, 0] and valid[0, :2].tolist() == [True, False]


def test_cloud_mask(tmp_path, capsys):
    trained, product = network("spectral_only", ("B2", "B11")), safe(tmp_path, "2A")
    plain, _ = mapped(trained, [product], [], tmp_path)
    for mask in (product, next(product.rglob("*SCL_20m.jp2"))):
        ids, _ = mapped(trained, [product], [], tmp_path, cloud_mask=str(mask))
        assert (ids[16:] == 255).all()
        np.testing.assert_array_equal(ids[:16], plain[:16])
        assert "of 3, 8, 9, 10 are cloud" in capsys.readouterr().err
    np.testing.assert_array_equal(
        mapped(trained, [product], [], tmp_path, cloud_mask=str(product), cloud_values=(8,))[0], plain
    )
    # Any raster, here one pixel a quarter of the scene in another CRS's order of axes: all but 0 is cloud.
    quarters = write(tmp_path / "clouds.tif", np.array([[0, 1], [0, 0]], np.uint8), UTM @ rasterio.Affine.scale(16))
    ids, _ = mapped(trained, [product], [], tmp_path, cloud_mask=str(quarters))
    assert (ids[:16, 16:] == 255).all() and (ids != 255).sum() == 3 * 256
    all_cloud = write(tmp_path / "all.tif", np.ones((2, 2), np.uint8), UTM @ rasterio.Affine.scale(16))
    (tmp_path / "map.tif").unlink()
    with pytest.raises(ValueError, match="look at --cloud_mask"):
        mapped(trained, [product], [], tmp_path, cloud_mask=str(all_cloud))
    assert not (tmp_path / "map.tif").exists()


def test_the_command(tmp_path, capsys):
    bundle, product = tmp_path / "b.safetensors", safe(tmp_path, "2A")
    write_bundle(network("tiny", ("B2", "B11")), bundle)
    s1 = write(tmp_path / "s1.tif", np.full((2, 40, 40), 0.03, np.float32), names=("Gamma0_VV", "Gamma0_VH"))
    common = ["--workdir", bundle, "--s2", product, "--s1", s1, "--s1_unit", "power", "--output", tmp_path / "map.tif"]
    clouds = ["--cloud_mask", product, "--cloud_values", "9,10"]
    predict.main([str(word) for word in [*common, *clouds, "--s2_offset", 1000]])
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert ((raster.read(1) == 255).sum(axis=1) == np.repeat([0, 32], 16)).all()
    assert "wrote" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        predict.main([str(word) for word in [*common, "--cloud_values", "clouds"]])
    assert stopped.value.code == 2 and "3,8,9,10" in capsys.readouterr().err
