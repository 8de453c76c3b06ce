"""Results on disk, their comparison, and their pictures."""

import json
from pathlib import Path

import pytest

from benchmarks.runtime.charts import draw
from benchmarks.runtime.compare import compare, number
from benchmarks.runtime.result import Figures, load, save
from edge_agent.errors import EdgeAgentError
from tests.benchmarks.benchmark_cases import figure, result


def test_a_result_comes_back_as_it_was_written(tmp_path: Path):
    written = result([figure(3.0, 1.0, 2.0), figure(5, at="c=8", better="higher")])
    save(written, tmp_path / "new" / "run.json")
    assert load(tmp_path / "new" / "run.json") == written
    document = json.loads((tmp_path / "new" / "run.json").read_text())
    first = document["figures"][0]
    assert (first["median"], first["min"], first["max"]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 99}'])
def test_another_file_is_no_result(tmp_path: Path, text: str):
    path = tmp_path / "it.json"
    path.write_text(text)
    with pytest.raises(EdgeAgentError, match=r"it\.json is no result"):
        load(path)
    with pytest.raises(EdgeAgentError, match="cannot read"):
        load(tmp_path / "none.json")


def test_repeats_gather_under_one_name():
    figures = Figures()
    for value in (1.0, 2.0):
        figures.add("ours", "ttft", value, unit="ms", at="c=1")
        figures.add("ours", "tok/s", 10 * value, unit="tok/s", at="c=1", better="higher")
    ttft, speed = figures.done()
    assert ttft.values == (1.0, 2.0)
    assert (speed.values, speed.better, speed.unit) == ((10.0, 20.0), "higher", "tok/s")


@pytest.mark.parametrize(
    ("before", "after", "better", "verdict"),
    [
        ((10, 11, 12), (8, 8.5, 9), "lower", "better"),
        ((10, 11, 12), (8, 8.5, 9), "higher", "worse"),
        ((8, 8.5, 9), (10, 11, 12), "lower", "worse"),
        ((8, 8.5, 9), (10, 11, 12), "higher", "better"),
        ((8, 8.5, 9), (10, 11, 12), "neither", "changed"),
        ((8, 9, 10), (9.5, 11, 12), "lower", "same"),
        ((8, 9, 10), (1, 9, 30), "lower", "same"),
        ((9,), (9,), "lower", "same"),
    ],
)
def test_a_change_counts_where_the_ranges_do_not_overlap(before, after, better, verdict):
    found = compare(
        result([figure(*before, better=better)]), result([figure(*after, better=better)])
    )
    assert found.changes[0].verdict == verdict


def test_a_comparison_names_what_only_one_has_and_what_else_differs():
    before = result([figure(2.0), figure(1.0, at="c=2")], cpu="slow")
    after = result([figure(3.0), figure(1.0, at="c=4")], cpu="fast")
    found = compare(before, after)
    assert [change.ratio for change in found.changes] == [1.5]
    assert [f.at for f in found.only_before] == ["c=2"]
    assert [f.at for f in found.only_after] == ["c=4"]
    assert found.circumstances == ("machine cpu: slow → fast",)
    with pytest.raises(EdgeAgentError, match="engine"):
        compare(before, result([], benchmark="engine"))


def test_pictures_show_every_series_and_leave_out_what_tables_show(tmp_path: Path):
    figures = [
        *(
            figure(1, 2, 3, series=name, at=f"c={c}")
            for name in ("ours", "theirs")
            for c in (1, 2, 4)
        ),
        figure(1, 2, 3, metric="ttft mean"),
        figure(0, 0, 0, series="parts", metric="export", at=""),
        figure(2, 2, 3, series="parts", metric="swap", at=""),
    ]
    png, svg = draw(result(figures), tmp_path / "run")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    for word in ("ours", "theirs", "ttft p50, ms", "export", "swap", "requests at a time"):
        assert f">{word}<" in text
    assert "ttft mean" not in text


def test_numbers_have_three_significant_digits():
    values = (12345.6, 123.4, 12.34, 1.234, 0.1234, 0.01234, 0)
    assert [number(v) for v in values] == ["12,346", "123", "12.3", "1.23", "0.123", "0.0123", "0"]
