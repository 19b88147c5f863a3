import math
import re

import pytest

from earlyfusion.eval.report.page.charts import HEIGHT, WIDTH, Series, line_chart, thinned


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0)],
        [(0, 1.0), (1, 1.0)],
        [(0, 0.0), (1, 0.5)],
        [(0, 1e-6), (1, 1e4)],
        [(0, -3.0), (10, 3.0)],
        [(i, math.sin(i)) for i in range(5000)],
        [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)],
    ],
)
@pytest.mark.parametrize("log_y", [False, True])
def test_charts_bear_every_curve(points, log_y):
    chart = line_chart([Series("a", points)], title="t", log_y=log_y)
    if not chart:
        assert log_y and not any(y > 0 for _, y in points)
        return
    drawn = re.search(r'<polyline[^>]* points="([^"]+)"', chart)
    assert drawn
    pairs = [tuple(map(float, pair.split(","))) for pair in drawn[1].split()]
    assert 1 <= len(pairs) <= 240
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in pairs)
    values = re.search(r'data-x="([^"]+)" data-y="([^"]+)"', chart)
    assert values and all(len(one.split()) == len(pairs) for one in values.groups())
    assert ("logarithmic" in chart) == log_y and chart.count("<circle") == (len(pairs) == 1)


def test_a_chart_holds_its_values_for_hovering():
    chart = line_chart([Series("a", [(99, 1.2345), (1_234_567, 0.5)])], title="t", note="What it shows.")
    assert 'data-x="99 1234567" data-y="1.23 0.5"' in chart and "What it shows." in chart


def test_a_chart_without_points_is_left_out():
    assert line_chart([Series("a", [])], title="t") == ""


def test_thinning_keeps_the_mean_and_the_end():
    points = [(i, float(i % 7)) for i in range(1000)]
    thin = thinned(points, 100)
    assert len(thin) == 100 and thin[-1][0] == 999
    assert sum(y for _, y in thin) / 100 == pytest.approx(sum(y for _, y in points) / 1000)
    assert thinned(points[:5], 100) == points[:5]
