"""The kernel report's figures: points on the roof, one line a subset."""

from emo_viz.figures.kernel import (
    attainable,
    mask_savings,
    measured_speedups,
    roofline,
    speedups,
)

MACHINE = {"name": "Test GPU", "flops": 1e15, "bytes_per_second": 1e12}


def row(kernel, flops, moved):
    return {"kernel": kernel, "flops": flops, "bytes": moved, "roofline_seconds": 1e-3}


def test_every_kernel_lies_on_the_roof():
    fig = roofline([row("up", 1e12, 1e8), row("combine", 1e9, 1e9)], MACHINE, 1024)
    roof, points = fig.data
    assert list(points.y) == [1000.0, 1.0]
    assert max(roof.y) == 1000.0
    assert "nothing here was timed" in fig.layout.title.text


def test_the_roof_bends_at_the_ridge():
    assert attainable(999, MACHINE) < attainable(1000, MACHINE) == attainable(2000, MACHINE)


def test_one_line_a_subset_and_none_for_all_experts():
    savings = [{"tokens": t, "kept": k, "times": 1.0} for t in (1, 64) for k in (128, 16, 8)]
    fig = mask_savings(savings, 128, "Test GPU")
    assert [trace.name for trace in fig.data] == ["8 of 128 experts", "16 of 128 experts"]
    assert list(fig.data[0].x) == [1, 64]


def test_close_neighbours_are_named_on_lines_of_their_own():
    fig = roofline(
        [row("up", 560e9, 1e9), row("dw2", 630e9, 1e9), row("combine", 1e9, 1e9)], MACHINE, 9
    )
    lines = {note.text: note.ay for note in fig.layout.annotations}
    assert lines["dw2"] == lines["combine"] < lines["up"]


def timed(name, tokens, routing, milliseconds):
    sizes = [tokens, 128, 8, 2048, 1024]
    return {"name": name, "sizes": sizes, "routing": routing, "forward_ms": milliseconds}


def test_speeds_are_ratios_to_grouped_mm_of_the_same_layer():
    rows = [timed("triton", 8, "even", 2.0), timed("grouped_mm", 8, "even", 3.0)]
    rows += [timed("triton", 8, "kept", 1.0), timed("grouped_mm", 16, "kept", 9.0)]
    rows += [timed("triton", 64, "even", 2.0), timed("grouped_mm", 64, "even", 8.0)]
    speeds = speedups(rows)
    assert {(s["tokens"], s["routing"], s["times"]) for s in speeds} == {
        (64, "even", 4.0),
        (8, "even", 1.5),
    }
    fig = measured_speedups(speeds, "<i>GPU")
    assert list(fig.data[0].x) == [8, 64] and list(fig.data[0].y) == [1.5, 4.0]
    alone = measured_speedups(
        [*speeds, {"tokens": 8, "routing": "skewed", "times": 1, "ms": 1}], ""
    )
    assert [trace.mode for trace in alone.data[:2]] == ["lines+markers", "markers"]
    assert "&lt;i&gt;GPU" in fig.layout.title.text
