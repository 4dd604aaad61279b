"""Which class a value is, and what is said of tables that do not say it."""

import pytest

from tfds_dwplus import bands
from tfds_dwplus.vectors import value_table
from tfds_dwplus.vectors.value_table import class_ids, drawn_up, dynamic_world_table, read_table

GOOD = "value,name,colour\n1,field,#2E8B57\n2,wood,004400\n7,field,2e8b57\n9,,\n"


def table(folder, text: str):
    path = folder / "classes.csv"
    path.write_text(text)
    return read_table(path), path


def test_several_values_are_one_class_and_one_without_a_name_is_none(tmp_path):
    found, path = table(tmp_path, GOOD)
    assert found.classes == bands.Classes(("field", "wood"), ("2e8b57", "004400"))
    ids, lines = class_ids(["7", "1", "2", "", "9"], found, "crop", path)
    assert ids.tolist() == [0, 0, 1, -1, -1]
    assert lines[0] == "1 of 5 features have no value of crop, and no label"
    assert lines[1].startswith("1 features of the value '9' have no label")


MANY = "".join(f"{n},c{n},{n:06x}\n" for n in range(65))
WRONG = {
    "no colour": ("1,field,\n2,wood,004400\n", "class 'field' of the value '1' has no colour, expected one such as 419bdf"),
    "a short row": ("1,field\n2,wood,004400\n", "has no colour"),
    "a colour by name": ("1,field,green\n2,wood,004400\n", "has the colour 'green'"),
    "two colours": ("1,field,004400\n2,field,004401\n3,wood,1\n", "class 'field' has the colours 004400 and 004401"),
    "one class": ("1,field,004400\n2,field,004400\n", "1 classes, expected 2 to 64"),
    "none": ("", "0 classes, expected 2 to 64"),
    "65 classes": (MANY, "65 classes, expected 2 to 64"),
    "two names alike": ("1,Field,004400\n2,field,005500\n", "two classes are named 'field'"),
    "a value twice": ("1,a,004400\n1,b,005500\n", "lists the value '1' twice"),
    "no value": (",a,004400\n", "a row without a value"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_table_that_is_wrong(name, tmp_path):
    rows, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as error:
        table(tmp_path, "value,name,colour\n" + rows)
    assert "classes.csv" in str(error.value) and "\n" not in str(error.value)


def test_another_header(tmp_path):
    assert table(tmp_path, GOOD.replace("colour", "Color"))[0].classes.names == ("field", "wood")
    with pytest.raises(ValueError, match="has no column name; its header is value,class,colour"):
        table(tmp_path, "value,class,colour\n")
    with pytest.raises(ValueError, match=r"no file .*none\.csv; .*--write_classes"):
        read_table(tmp_path / "none.csv")


def test_names_of_dynamic_world_in_any_writing():
    values = ["Water", "shrub & scrub", "flooded-vegetation", "Snow and  ice", "crops"]
    assert class_ids(values, dynamic_world_table(values), "class", None)[0].tolist() == [0, 5, 3, 8, 4]


def test_values_that_are_no_class_are_listed_with_what_to_do(tmp_path):
    values = ["wheat"] * 3 + ["water"] + [f"v{n}" for n in range(9)]
    with pytest.raises(ValueError) as error:
        class_ids(values, dynamic_world_table(values), "crop", None)
    told = str(error.value)
    assert told.startswith("--field crop has 10 values that are no class of Dynamic World's: 'wheat' (3), 'v0' (1), ")
    assert "and 2 more; --write_classes classes.csv draws up a table" in told and "wheat,NAME," in told
    found, path = table(tmp_path, GOOD)
    with pytest.raises(ValueError, match=r"1 values that are no row of .*classes.csv: '3' \(1\); add a row for each"):
        class_ids(["3", "1"], found, "crop", path)


def test_what_is_drawn_up_is_a_table(tmp_path):
    values = ["wheat, winter", "Water", "Water", "", *(f"v{n}" for n in range(62))]
    found, path = table(tmp_path, drawn_up(values, "crop"))
    assert len(found.classes) == len(set(found.classes.colours)) == 64
    assert found.classes.names[0] == "Water" and found.classes.colours[0] == bands.CLASS_COLOURS[0]
    assert class_ids(values, found, "crop", path)[0][:4].tolist() == [1, 0, 0, -1]
    for values in ([""], [str(n) for n in range(value_table.MOST_VALUES + 1)]):
        with pytest.raises(ValueError, match="is it the field of the classes"):
            drawn_up(values, "crop")
