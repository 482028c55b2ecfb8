# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Tables to the letter."""

from functools import partial

from hf_focal.results.tables import (
    cell,
    fill,
    markdown_table,
    split_table,
    text_table,
    with_interval,
    with_noise,
    wrap_titles,
)


def test_cells_are_percent_unless_said_otherwise():
    assert [cell(0.0256), cell(None), cell(1.23456, ".3g"), cell(None, ".3g")] == ["2.56%", "-", "1.23", "-"]
    assert with_interval(0.025, (0.02, 0.03)) == "2.50% (2.00% to 3.00%)"
    assert with_interval(1.5, [], ".4f") == "1.5000"


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [["a", "12", ""], ["longer", "3", "4"]]
    assert text_table(["x", "y", "z"], rows) == "x       y   z\na       12\nlonger  3   4"
    assert text_table(["x", "y", "z"], rows, numbers=True) == "x          y  z\na         12\nlonger     3  4"
    assert text_table(["x", "yy"], []) == "x  yy"


def test_tables_in_markdown_have_a_line_below_their_titles():
    assert markdown_table(["x", "y"], [["a", "1"]]) == "| x | y |\n| --- | --- |\n| a | 1 |"


def columns_of(text):
    """Every table of a text in Markdown, as a dict of its columns."""
    tables = []
    for block in text.split("\n\n"):
        header, _, *rows = [line.strip("| ").split(" | ") for line in block.splitlines()]
        tables.append({title.strip(): [row[i].strip() for row in rows] for i, title in enumerate(header)})
    return tables


def test_a_wide_table_becomes_several_that_lose_nothing():
    header = ["loss", "runs", "T", *(f"{name} {moment}" for name in "uvwxyz" for moment in ("before", "after"))]
    rows = [[f"row {i}", str(i), *(f"{100 * i + j} +- 1.00" for j in range(13))] for i in range(3)]
    for table in (markdown_table, partial(markdown_table, aligned=True)):
        text = split_table(table, header, rows, 2, 60)
        found = columns_of(text)
        assert max(map(len, text.splitlines())) <= 60 and len(found) > 2
        assert all(list(one)[:2] == ["loss", "runs"] and one["loss"] == ["row 0", "row 1", "row 2"] for one in found)
        whole = {title: cells for one in found for title, cells in one.items()}
        assert whole == {title: [row[i] for row in rows] for i, title in enumerate(header)}
        for name in "uvwxyz":  # side by side
            assert any({f"{name} before", f"{name} after"} <= one.keys() for one in found)
    assert split_table(text_table, header, rows, 2, 1000) == text_table(header, rows)
    aligned = markdown_table(["a", "b"], [["longer", "1"]], aligned=True).splitlines()
    assert aligned == ["| a      | b   |", "| ---    | --- |", "| longer | 1   |"]


def test_rows_of_long_names_are_numbered():
    rows = [["/a/very/long/path/to/a/model/number/" + str(i), f"focal (gamma {i})", "1.00%"] for i in range(2)]
    text = split_table(text_table, ["model", "loss", "ECE"], rows, 2, 60)
    key, table = text.split("\n\n")
    assert key.split() == " ".join(f"{i + 1}: model {row[0]}, loss {row[1]}" for i, row in enumerate(rows)).split()
    assert [line.split() for line in table.splitlines()] == [["ECE"], ["1", "1.00%"], ["2", "1.00%"]]


def test_long_titles_are_wrapped():
    lines = [["a title of many words, longer than there is room for", "12"], ["b", "3"]]
    wrapped = wrap_titles(lines, 30)
    assert max(map(len, text_table(*[wrapped[0], wrapped[1:]], numbers=True).splitlines())) <= 30
    assert " ".join(part.strip() for part, _ in wrapped) == "a title of many words, longer than there is room for b"
    assert [number for _, number in wrapped if number] == ["12", "3"]
    assert wrap_titles(lines, 80) == lines
    assert fill("a b /no/break/in-a-path", 10) == "a b\n/no/break/in-a-path"
    assert with_noise(0.01, 0.02) == "1.00% (within noise)" and with_noise(0.01, 0.02, short=True) == "1.00% ~"
    assert with_noise(0.03, 0.02, short=True) == "3.00%"
