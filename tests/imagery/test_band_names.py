"""Names of bands in the schemes of archives and programs, each whole; what is no band."""

import pytest

from tfds_dwplus import bands
from tfds_dwplus.imagery.decoder.band_names import band_name, is_no_band, names_of

ALL = " ".join(bands.S2_ALL_BANDS)
LAND = "B2 B3 B4 B5 B6 B7 B8 B8A B11 B12"


@pytest.mark.parametrize(
    ("given", "meant"),
    {
        "ESA": ("B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12", ALL),
        "EOPF": ("b01 b02 b03 b04 b05 b06 b07 b08 b8a b09 b10 b11 b12", ALL),
        "Earth Engine": ("B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12 QA60 MSK_CLDPRB", ALL + " - -"),
        "Earth Engine, toBands": ("0_B2 0_B8A 1_B11", "B2 B8A B11"),
        "Earth Engine, reduced": ("B2_median B8A_median B2_stdDev", "B2 B8A -"),
        "SR_": ("SR_B2 SR_B12", "B2 B12"),
        "Planetary Computer": (
            "AOT B01 B02 B03 B04 B05 B06 B07 B08 B09 B11 B12 B8A SCL WVP visual preview datastrip-metadata rendered_preview",
            "- B1 B2 B3 B4 B5 B6 B7 B8 B9 B11 B12 B8A - - - - - -",
        ),
        "Earth Search v1": (
            "aot blue coastal green nir nir08 nir09 red rededge1 rededge2 rededge3 scl swir16 swir22 thumbnail visual wvp cloud snow",
            "- B2 B1 B3 B8 B8A B9 B4 B5 B6 B7 - B11 B12 - - - - -",
        ),
        "Earth Search, L1C and jp2": ("cirrus blue-jp2 nir08-jp2 visual-jp2 swir22-jp2", "B10 B2 B8A - B12"),
        "Earth Search v0": ("overview B01 B02 B8A B12 AOT WVP SCL info", "- B1 B2 B8A B12 - - - -"),
        "STAC": ("coastal blue green red rededge071 rededge075 rededge078 nir nir08 nir09 cirrus swir16 swir22", ALL),
        "CDSE": ("AOT_10m B02_10m B8A_20m B01_60m B12_20m SCL_20m TCI_10m WVP_10m", "- B2 B8A B1 B12 - - -"),
        "DEA": (
            "nbart_coastal_aerosol nbart_blue nbart_green nbart_red nbart_red_edge_1 nbart_red_edge_2 nbart_red_edge_3 nbart_nir_1 "
            "nbart_nir_2 nbart_swir_2 nbart_swir_3 oa_fmask oa_solar_zenith",
            "B1 " + LAND + " - -",
        ),
        "DEA, nbar": ("nbar_nir_1 nbar_nir_2 nbar_swir_2 nbar_swir_3", "B8 B8A B11 B12"),
        "DEA, without prefix": ("blue green red red_edge_1 red_edge_2 red_edge_3 nir_1 nir_2 swir_2 swir_3", LAND),
        "DEA, a part": ("red nir_1 nir_2 swir_2", "B4 B8 B8A B11"),
        "DEA, a part with prefix": ("nbart_red nbart_swir_2", "B4 B11"),
        "Open Data Cube": (
            "coastal_aerosol blue green red red_edge_1 red_edge_2 red_edge_3 nir_1 nir_2 water_vapour swir_1 swir_2",
            ALL.replace("B10 ", ""),
        ),
        "Open Data Cube, numbers": ("band_02 band_08 band_8a band_11 band_12", "B2 B8 B8A B11 B12"),
        "either Open Data Cube": ("swir_2 nir_1 green", "- B8 B3"),
        "plain": ("blue green red nir swir_2", "B2 B3 B4 B8 B12"),
        "FORCE": ("BLUE GREEN RED REDEDGE1 REDEDGE2 REDEDGE3 BROADNIR NIR SWIR1 SWIR2", LAND),
        "FORCE, another order": ("NIR RED BROADNIR", "B8A B4 B8"),
        "FORCE, short": ("BLU GRN RED RE1 RE2 RE3 BNR NIR SW1 SW2", LAND),
        "no FORCE": ("BLUE GREEN RED NIR SWIR1 SWIR2", "B2 B3 B4 B8 B11 B12"),
        "spyndex": ("A B G R RE1 RE2 RE3 N N2 WV S1 S2", ALL.replace("B10 ", "")),
        "spyndex, a part": ("B G R RE1 N S1 SCL", "B2 B3 B4 B5 B8 B11 -"),
        "a picture": ("R G B", "- - -"),
        "sensors": ("S1 S2 A", "- - -"),
        "positions": ("b1 b2 b3 b4", "- - - -"),
        "positions, of 13": ("B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11 B12 B13", "- - - - - - - - - - - - -"),
        "positions, two digits": ("band_01 band_02 band_03", "- - -"),
        "no positions": ("B1 B2 B3 B4", "B1 B2 B3 B4"),
        "WorldCereal": ("S2-L2A-B02 S2-L2A-B8A S1-SIGMA0-VV S1-SIGMA0-VH", "B2 B8A VV VH"),
        "SNAP": ("B2 view_zenith_B2 sun_azimuth quality_aot quality_scl_confidence", "B2 - - - -"),
        "Sentinel-1": ("VV VH angle VV_VH_ratio", "VV VH - -"),
    }.values(),
)
def test_schemes(given, meant):
    assert names_of(given.split()) == [None if name == "-" else name for name in meant.split()]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("Blue,Green,Red,Red edge 1,Red edge 2,Red edge 3,NIR,Narrow NIR,SWIR 1,SWIR 2", LAND),
        ("Aerosols,Blue,Green,Red,Red Edge 1,Red Edge 2,Red Edge 3,NIR,Red Edge 4,Water vapor,SWIR 1,SWIR 2", ALL.replace("B10 ", "")),
        ("443 nm,490 nm,560 nm,665 nm,705 nm,740 nm,783 nm,842 nm,865 nm,945 nm,1375 nm,1610 nm,2190 nm", ALL),
        # Sentinel-2B's own: 455 nm lies between two bands, 1240 nm is of MODIS
        ("492.1 nm,559 nm,832.9nm,0.864 µm,2.1857um,455 nm,1240 nm", "B2 B3 B8 B8A B12 - -"),
        ("Near infrared (785-900 nm),Short-wave infrared 2 (2100 - 2280 nm),near infra-red", "B8 B12 B8"),
        ("NIR (865 nm),NIR 842nm,Red edge (740 nm),Red 717 nm", "B8A B8 B6 -"),
        ("Coastal aerosol (band 1),Blue (band 2),Green (band 3),Red (band 4)", "B1 B2 B3 B4"),
        ("NIR 1 (band 8) - 10m,NIR 2 (band 8A) - 20m,NIR 3 (band 9) - 60m,NIR 4,SWIR 1 (band 11) - 20m", "B8 B8A B9 - B11"),
        ("Band 1,Band 2,Band 3: blue", "- - B2"),
        ("VV/VH,VH - VV,Gamma0_VH,vv-amplitude", "- - VH VV"),
        ("Water Vapour (WVP),Aerosol optical thickness (AOT),Blue mask,Mask of B02", "- - - -"),
    ],
)  # fmt: skip
def test_descriptions(given, meant):
    assert names_of(given.split(",")) == [None if name == "-" else name for name in meant.split()]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("B02_Blue_Lake B03_Blue_Lake B8A_Blue_Lake", "B2 B3 B8A"),
        ("B2_Blue_Lake.tif Blue_Lake_B3.tif", "B2 B3"),
        ("Red_Lake_blue Red_Lake_green Red_Lake_SCL_20m Red_Lake_TCI", "B2 B3 - -"),
        ("T43RCP_20200604T054639_B8A_20m T43RCP_20200604T054639_TCI_10m", "B8A -"),
        ("HLS.S30.T43RCP.2020156T054639.v2.0.B8A HLS.S30.T43RCP.2020156T054639.v2.0.Fmask", "B8A -"),
        ("SENTINEL2A_20200604-054639-024_L2A_T43RCP_C_V2-2_FRE_B11 SENTINEL2A_20200604-054639-024_L2A_T43RCP_C_V2-2_CLM_R1", "B11 -"),
        ("ga_s2am_nbart_3-2-1_53JQJ_2020-10-31_final_band04 ga_s2am_nbart_3-2-1_53JQJ_2020-10-31_final_band11", "B4 B11"),
        ("MSK_DETFOO_B02 MSK_QUALIT_B02 L2A_PVI", "- - -"),
        ("x_BLUE x_BROADNIR x_NIR", "B2 B8 B8A"),
        ("scl_study_B04 S2_band_20200604_B04", "B4 B4"),
        ("b1 b2 b3", "B1 B2 B3"),
        ("s1a-iw-grd-vh-20200607t010800 S1A_IW_20200607T010800_DVP_RTC30_VV", "VH VV"),
    ],
)  # fmt: skip
def test_file_names(given, meant):
    assert names_of(given.split(), last=True) == [None if name == "-" else name for name in meant.split()]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("B02_10m", "B2"),
        ("blue", "B2"),
        ("B4, central wavelength 665 nm", "B4"),
        ("B2, central wavelength 490 nm, width 65 nm", "B2"),
        ("B8A", "B8A"),
        ("B08A", "B8A"),
        ("Sentinel-2 red edge 1 (705 nm)", "B5"),
        ("rededge3", "B7"),
        ("NIR 842nm", "B8"),
        ("NIR_10m", "B8"),
        ("narrow NIR", "B8A"),
        ("nir08", "B8A"),
        ("nbart_nir_2", "B8A"),
        ("nbart_swir_2", "B11"),
        ("swir_1", "B11"),
        ("swir_2", "B12"),
        ("swir22", "B12"),
        ("SWIR 2.2", "B12"),
        ("Sigma0_VV_db", "VV"),
        ("s1a-iw-grd-vh-20200607t010800", "VH"),
        ("band_04", "B4"),
        ("red edge", None),
        ("SCL", None),
        ("Band 4", None),
        ("", None),
        *((letter, None) for letter in ("A", "B", "G", "R", "N", "S1", "S2", "RE1")),
    ],
)
def test_one_name(text, name):
    assert band_name(text) == name


def test_the_last_word_of_a_file_name_counts():
    assert band_name("T43RCP_20200604T054639_B08_10m", last=True) == "B8"
    assert band_name("blue_area_B4", last=True) == "B4"


@pytest.mark.parametrize(
    "text",
    [
        *("TCI", "AOT_20m", "WVP_10m", "SCL", "CLD_20m", "SNW_60m", "L2A_PVI", "QA60", "MSK_CLDPRB", "MSK_DETFOO_B02"),
        *(
            "visual",
            "visual-jp2",
            "preview",
            "rendered_preview",
            "thumbnail",
            "thumbnail:nbart",
            "overview",
            "true colour",
        ),
        *("dataMask", "alpha", "Alpha band", "cloud_mask", "angle", "view_zenith_B2", "TCI_R"),
        *("T33XWJ_20220413T150759_TCI_10m.jp2", "Red_Lake_SCL_20m", "S2_20220413_visual.tif"),
    ],
)
def test_no_bands(text):
    assert is_no_band(text) and band_name(text) is None and band_name(text, last=True) is None


@pytest.mark.parametrize("text", ["B02", "T33XWJ_20220413T150759_B8A_20m", "VV", "blue", "s2_stack", "Alpha_Centre_B02", "scl_study_B04", "NDVI", ""])  # fmt: skip
def test_what_may_be_a_band(text):
    assert not is_no_band(text)
