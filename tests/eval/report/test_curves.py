"""The curves of trainings."""

import math

from earlyfusion.eval.report.curves import beside, lm_charts, smoothed


def test_every_modality_of_a_run_has_its_curve_with_telemetry_or_without():
    points = [(1, 2.0), (2, 1.0)]
    run = {f"train/{name}": points for name in ("loss", "z", "lr", "structure", "tones", "image", "text")}
    for metric in ("validation/perplexity/tones", "telemetry/leakage/tones"):
        chart, _ = lm_charts({**run, metric: points})
        places = [chart.find(f"></i>{name} <") for name in ("text", "image", "structure", "tones")]
        assert places == sorted(places) and places[0] > 0
        assert "></i>lr <" not in chart


def test_two_runs_share_a_chart():
    points = [(1, 2.0), (2, 1.0)]
    chart, _ = lm_charts(beside({"train/text": points}, {"train/text": points, "train/image": points}))
    assert chart.count("<polyline") == 3 and chart.count(" faint") == 4  # lines, and the legend
    assert [chart.count(f"</i>{name} <") for name in ("text", "text, other run", "image, other run")] == [
        1,
        1,
        1,
    ]


def test_smoothing_keeps_steps_means_and_single_points():
    points = [(step, float(step % 2)) for step in range(200)]
    smooth = smoothed([*points, (200, math.nan)])
    assert [x for x, _ in smooth] == [x for x, _ in points]
    assert all(abs(y - 0.5) < 0.1 for _, y in smooth)
    assert smoothed([(7, 3.0)]) == [(7, 3.0)] and smoothed([]) == []
