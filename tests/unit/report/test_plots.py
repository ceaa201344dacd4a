import re
import subprocess
import sys
import warnings
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from fedtrain.report import Evaluation, Metric, PrivacyPoint, plots
from fedtrain.report.evaluation import CLASSIFICATION

HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "$\\frac{$",
    "_hidden",
    "漢字",
    "a\x00b\nc",
    "x" * 300,
    "",
)


def history(count):
    return [Evaluation(round=number, accuracy=number / (count + 1), loss=1 / (number + 1)) for number in range(count)]


def texts(svg):
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("text")]


def test_the_curves_are_drawn_with_the_best_round(build, parse):
    report = parse(build(rounds=4))
    svg = plots.metric_svg(report.evaluation.history, report.evaluation.metrics[0], report.evaluation.best)
    assert any(text.startswith("best ") for text in texts(svg))
    assert "round" in texts(svg)
    loss = plots.curve_svg(report.evaluation.history, "loss")
    assert '<title id="curve-title">Loss over the rounds</title>' in loss
    assert re.search(r"After round 0: \d\.\d{4}; after round 4: \d\.\d{4}\. The lowest is", loss)


@pytest.mark.parametrize("count", [1, 2, 500])
def test_any_number_of_evaluations_can_be_drawn(count):
    ET.fromstring(plots.metric_svg(history(count), CLASSIFICATION[0], None))


def test_a_measurement_that_is_not_a_number_is_no_series():
    entries = [Evaluation(round=0, error=0.5), Evaluation(round=1, error=None), Evaluation(round=2, error=[1.0])]
    assert plots.series(entries, "error") == [(0, 0.5)]
    assert plots.series(entries, "accuracy") == []
    assert plots.series(entries, "model_dump") == []


def test_the_confusion_matrix_shows_every_count_and_name():
    svg = plots.confusion_svg([[11, 2, 0], [1, 1234, 3], [4, 5, 66]], ["cat", "dog", "fox"])
    shown = texts(svg)
    assert {"11", "2", "0", "1,234", "66"} <= set(shown)
    assert shown.count("cat") == 2


@pytest.mark.parametrize("classes", [1, 13, 26, 300])
def test_confusion_and_f1_of_any_number_of_classes_stay_small(classes):
    names = [f"class {number}" for number in range(classes)]
    svg = plots.confusion_svg(np.eye(classes, dtype=int).tolist(), names)
    assert len(svg) < 200_000
    assert len(plots.f1_svg([0.5] * classes, names)) < 100_000


def test_f1_bars_are_named_and_rounded_down():
    assert {"cat", "dog", "95.99", "100.00"} <= set(texts(plots.f1_svg([0.95999, 1.0], ["cat", "dog"])))


def test_few_clients_are_drawn_as_bars_and_many_as_an_image():
    few = plots.histogram_svg([[3, 4], [5, 0]], ["cat", "dog"])
    assert "<image" not in few
    assert {"cat", "dog"} <= set(texts(few))
    for clients, classes in ((41, 2), (2, 11), (400, 100)):
        many = plots.histogram_svg(np.ones((clients, classes), int).tolist(), [str(name) for name in range(classes)])
        assert "<image" in many
        assert 'href="data:image/png;base64,' in many
        assert len(many) < 200_000


def test_epsilon_is_drawn_with_the_budget_and_the_median():
    curve = [PrivacyPoint(round=number, max=number + 0.001, median=number / 2, clients=()) for number in range(1, 5)]
    assert {"largest 4.01", "median 2.00", "budget 8"} <= set(texts(plots.epsilon_svg(curve, {"budget": 8.0})))
    alone = [PrivacyPoint(round=1, max=0.5, median=0.5, clients=())]
    assert not any(text.startswith(("median", "budget")) for text in texts(plots.epsilon_svg(alone, {})))
    ET.fromstring(plots.epsilon_svg([PrivacyPoint(round=1, max=0.0, median=0.0, clients=())], {}))


def curve_of(clients, rounds):
    """Give a curve on which each client has spent another epsilon."""
    return [
        PrivacyPoint(
            round=number,
            max=float(clients * number),
            median=float((clients // 2 + 1) * number),
            clients=tuple(float((client + 1) * number) for client in range(clients)),
        )
        for number in range(rounds + 1)
    ]


def test_few_clients_have_a_line_each_and_many_a_band():
    lines = lambda svg: len(re.findall(r"stroke-width: 1\.2\b", svg))
    few, many = plots.epsilon_svg(curve_of(8, 3), {}), plots.epsilon_svg(curve_of(30, 3), {})
    assert (lines(few), lines(many)) == (8, 0)
    assert {"largest 90.00", "median 48.00"} <= set(texts(many))


def test_a_charge_for_the_whole_run_is_one_point_at_its_start():
    svg = plots.epsilon_svg(curve_of(3, 0), {"budget of this run": 4.0, "clients' own budget": 5.0})
    assert "round (0: all are charged at the start)" in texts(svg)
    assert {"budget of this run 4", "clients' own budget 5"} <= set(texts(svg))
    assert "0.04" not in texts(svg)


def test_names_are_text_whatever_they_hold():
    size = len(HOSTILE)
    drawings = (
        plots.confusion_svg(np.eye(size, dtype=int).tolist(), HOSTILE),
        plots.f1_svg([0.5] * size, HOSTILE),
        plots.histogram_svg(np.ones((3, size), int).tolist(), HOSTILE),
        plots.curve_svg([Evaluation(round=1, loss=0.5)], HOSTILE[1]),
    )
    for svg in drawings:
        tags = {element.tag for element in ET.fromstring(svg).iter()}
        assert tags <= {"svg", "title", "desc", "g", "defs", "path", "use", "text", "clipPath", "rect", "image"}
        assert "<script" not in svg
    assert "$\\frac{$" in texts(drawings[0])
    assert "_hidden" in texts(drawings[2])


def test_ids_of_one_page_are_unique_and_each_reference_leads_somewhere(build, parse):
    report = parse(build(rounds=4))
    page = "".join(
        (
            plots.metric_svg(report.evaluation.history, report.evaluation.metrics[0], report.evaluation.best),
            plots.curve_svg(report.evaluation.history, "loss"),
            plots.confusion_svg(report.evaluation.final.confusion, report.data.classes),
            plots.epsilon_svg(report.privacy.curve, {"budget": 8.0}),
        )
    )
    elements = list(ET.fromstring(f"<page>{page}</page>").iter())
    ids = [element.get("id") for element in elements if element.get("id")]
    assert len(ids) == len(set(ids))
    references = {element.get("href") for element in elements if element.tag == "use"}
    references |= {element.get("clip-path")[4:-1] for element in elements if element.get("clip-path")}
    references |= {f"#{name}" for element in elements for name in element.get("aria-labelledby", "").split()}
    assert references == {f"#{name}" for name in ids}


def test_the_users_matplotlib_settings_change_nothing_and_are_left_alone():
    usual = plots.curve_svg(history(5), "loss")
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.hashsalt": "x"}):
        assert plots.curve_svg(history(5), "loss") == usual
        assert mpl.rcParams["font.size"] == 30


def test_drawing_uses_no_window_system():
    program = (
        "import sys; from fedtrain.report import Evaluation, plots; "
        "plots.curve_svg([Evaluation(round=1, loss=0.5)], 'loss'); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_png_compares_runs(tmp_path):
    path = tmp_path / "curves.png"
    runs = {"without privacy": history(30), "epsilon 8": history(20), "_epsilon 1": history(10)}
    plots.curve_png(path, runs)
    first = path.read_bytes()
    plots.curve_png(path, runs)
    assert path.read_bytes() == first
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0x33, 0x22, 0x88), (0x88, 0xCC, 0xEE), (0x44, 0xAA, 0x99)} <= colours


def test_glyphs_that_only_the_page_has_cause_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "漢字" in plots.f1_svg([0.5], ["漢字"])


@pytest.mark.parametrize(("clients", "classes"), [(401, 3), (10_000, 10), (20, 101), (3000, 1000)])
def test_very_many_clients_or_classes_are_drawn_in_order_of_size(clients, classes):
    counts = np.zeros((clients, classes), np.int64)
    counts[np.arange(clients), np.arange(clients) % classes] = 1 + np.arange(clients)
    counts[0] = 2
    svg = plots.histogram_svg(counts.tolist(), [str(name) for name in range(classes)])
    shown, largest = texts(svg), max(clients, 2 * classes)
    assert any(text.startswith(f"training records: 2 to {largest:,}, median") for text in shown)
    assert any(text.startswith(f"classes with records: 1 to {classes:,}, median 1") for text in shown)
    assert len(svg) < 100_000


def test_a_block_of_a_large_matrix_shows_what_a_pixel_would_lose():
    matrix = np.eye(1000, dtype=int) * 10
    matrix[900:950, 20:40] += 50
    svg = plots.confusion_svg(matrix.tolist(), [str(name) for name in range(1000)])
    assert {"predicted class, in blocks of 5", "true class, in blocks of 5"} <= set(texts(svg))
    assert len(svg) < 100_000
    blocks = plots._blocks(matrix.astype(float), 5)
    assert blocks.shape == (200, 200)
    assert blocks.sum() == matrix.sum()
    assert blocks[180, 4] == matrix[900:905, 20:25].sum()


def test_a_png_compares_runs_by_the_metric_that_they_have(tmp_path):
    metric = Metric(name="perplexity", direction="lower", format="number")
    falling = [Evaluation(round=number, perplexity=20.0 / (1 + number)) for number in range(5)]
    plots.curve_png(tmp_path / "perplexity.png", {"languages": falling}, metric)
    plots.curve_png(tmp_path / "accuracy.png", {"languages": falling})
    sizes = []
    for name in ("perplexity", "accuracy"):
        with Image.open(tmp_path / f"{name}.png") as image:
            # Of the blue of the first line there is much where it is drawn, and little in the legend alone.
            sizes.append({colour: count for count, colour in image.convert("RGB").getcolors(1 << 24)}[0x33, 0x22, 0x88])
    assert sizes[0] > 2 * sizes[1]
