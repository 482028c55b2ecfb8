# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Tables to the letter."""

from hf_focal.results.tables import cell, markdown_table, text_table, with_interval


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
