"""The curves of trainings."""

from earlyfusion.eval.report.curves import lm_charts


def test_every_modality_of_a_run_has_its_curve_with_telemetry_or_without():
    points = [(1, 2.0), (2, 1.0)]
    run = {f"train/{name}": points for name in ("loss", "z", "lr", "structure", "tones", "image", "text")}
    for metric in ("validation/perplexity/tones", "telemetry/leakage/tones"):
        chart, _ = lm_charts({**run, metric: points})
        places = [chart.find(f"></i>{name} <") for name in ("text", "image", "structure", "tones")]
        assert places == sorted(places) and places[0] > 0
        assert "></i>lr <" not in chart
