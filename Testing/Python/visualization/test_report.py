"""The HTML report: well-formed, self-contained, escaped, complete."""

import ast
import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import SphericalRegLib
from SphericalRegLib.errors import InputError
from SphericalRegLib.visualization.convergence import StageTrace
from SphericalRegLib.visualization.html import Html, data_uri, escaped, table, tag
from SphericalRegLib.visualization.orientation import edge_letters
from SphericalRegLib.visualization.report import METRICS, CaseReport, metric_value, report_html, write_report
from SphericalRegLib.visualization.report_index import IndexEntry, index_html, write_index
from SphericalRegLib.visualization.report_pictures import ReportView, shown, thumbnail

HOSTILE = "\"><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>&amp;.png"
VOID = {"meta", "img", "input", "br", "hr", "link", "col"}


class Checker(HTMLParser):
    """Fails on tags that don't nest; keeps what the tests ask about."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"repeated attribute in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


def parsed(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    return checker


def pictures(shape: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices(shape)
    xray = np.exp(-((rows - 24) ** 2 + (columns - 30) ** 2) / 200) + 0.01 * columns
    return xray.astype(np.float32), np.roll(xray, 3, axis=1).astype(np.float32)


def view(**changes) -> ReportView:
    xray, drr = pictures()
    pose = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 800], [0, 0, 0, 1]])
    return ReportView(**({"title": "X-ray", "xray": xray, "drr": drr, "camera_from_world": pose} | changes))


def full_case() -> CaseReport:
    result = {
        "camera_from_world": [[1, 0, 0, 1.5], [0, 0, -1, 2.5], [0, 1, 0, 800], [0, 0, 0, 1]],
        "covariance": np.diag([1e-6, 4e-6, 9e-6, 0.04, 0.25, 0.09]).tolist(),
        "verdict": "uncalibrated",
        "predicted_target_error_mm": None,
        "score": 0.87654,
        "hypotheses": [{}, {}, {}],
        "versions": {"sphericalreg": "9.8.7"},
        "seed": 42,
    }
    stages = [StageTrace("screening", 0.25), StageTrace("LM, 1/4", 0.5, np.array([[3.0, 2.0], [2.0, 1.0], [1.0, 1.0]]), kept=1)]
    metrics = {"mtre_3d": 0.789, "mrpe": 0.5, "mpe_2d": float("nan"), "own": 3.0}
    xray, drr = pictures()
    return CaseReport(
        HOSTILE, [view(title=HOSTILE, truth_drr=xray, initial_drr=drr)], result, stages, {HOSTILE: HOSTILE}, metrics, HOSTILE, f"register {HOSTILE}"
    )


@pytest.fixture(scope="module")
def full_text() -> str:
    return report_html(full_case())


def test_text_is_escaped_and_markup_is_not():
    assert escaped("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert tag("p", Html("<b>x</b>"), "<i>", None, [1, " ", 2.5], class_="a\"b", hidden=True, title=None) == (
        '<p class="a&quot;b" hidden><b>x</b>&lt;i&gt;1 2.5</p>'
    )
    assert tag("img", src="a", aria_label="b") == '<img src="a" aria-label="b">'
    assert '<th scope="row">a</th><td class="number">1</td>' in table(("n", "v"), [("a", 1)], "c", numeric=[1])


def test_a_full_report_is_well_formed_and_says_what_it_should(full_text):
    page = parsed(full_text)
    for words in ("Accuracy not known", "0.79 mm", "0.877", "0.75 s", "not available", "9.8.7", "42", "not a medical device", "LM, 1/4", "own"):
        assert words in page.text, words
    # formal deviations: 1e-3 rad = 0.057 deg; 0.5 mm along A
    assert "0.057°" in page.text and "0.500 mm" in page.text
    # the source: -R^T t
    assert "-1.5, -800.0, 2.5 mm" in page.text


def test_hostile_names_stay_text(full_text):
    page = parsed(full_text)
    assert page.text.count(HOSTILE) >= 4
    assert sum(name == "script" for name, _ in page.elements) == 1
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]


def test_nothing_is_asked_from_elsewhere(full_text):
    for text in (full_text, index_html("x", [IndexEntry(HOSTILE, "a/b.html", thumbnail(view()), {"v": HOSTILE})])):
        page = parsed(text)
        for name, attributes in page.elements:
            for key in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                address = attributes.get(key)
                if address is not None:
                    assert address.startswith(("data:image/", "#")) or name == "a", (name, address)
            assert name not in ("link", "iframe", "object", "embed", "base")
        style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
        assert "url(" not in style and "@import" not in style
        policy = next(a["content"] for n, a in page.elements if n == "meta" and a.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy


def test_every_image_decodes_and_has_a_text(full_text):
    page = parsed(full_text)
    images = [attributes for name, attributes in page.elements if name == "img"]
    assert len(images) == 5 + 6  # X-ray, DRR, three kinds of edges; two maps each at the start, at the result, against the truth
    for attributes in images:
        assert attributes["alt"]
        kind, content = attributes["src"].split(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as decoded:
            decoded.load()
            assert kind == f"data:image/{decoded.format.lower()}"
            assert decoded.size == (int(attributes["width"]), int(attributes["height"]))


def test_controls_have_names_and_ids_are_unique():
    case = full_case()
    text = report_html(replace(case, views=[case.views[0], view(title="second")]))
    page = parsed(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    groups = {attributes["name"] for name, attributes in page.elements if name == "input" and attributes.get("type") == "radio"}
    assert groups == {"mode-1", "mode-2"}, "each viewer has its own modes"
    # every input lies in a label
    for match in re.finditer(r"<input", text):
        before = text[: match.start()]
        assert before.rfind("<label") > before.rfind("</label>")
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert references and references <= set(ids), "a drawing refers only to what the page holds"


def test_colours_of_drawings_follow_the_theme(full_text):
    assert "#fe00" not in full_text
    for variable in set(re.findall(r"var\((--[\w-]+)\)", full_text)) - {"--swatch", "--rows"}:
        assert re.search(rf"{variable}:", full_text), f"{variable} is used and never defined"


def test_the_same_case_gives_the_same_page(full_text):
    assert report_html(full_case()) == full_text


def test_a_case_without_truth_says_nothing_of_errors():
    text = parsed(report_html(CaseReport("plain", [view()], {"verdict": "accepted <soon>"}))).text
    assert "Errors against the truth" not in text and "mTRE" not in text and "true pose" not in text
    assert "Verdict: accepted <soon>" in text


def test_every_metric_of_evaluation_has_a_definition():
    """Asked of the source, so that this room needn't import the one above it."""
    source = Path(SphericalRegLib.__file__).parent / "evaluation" / "metrics.py"
    classes = {node.name: node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)}
    names = {node.target.id for node in classes["PoseErrors"].body if isinstance(node, ast.AnnAssign)}
    assert names and names <= set(METRICS)


def test_notes_of_the_result_are_shown_as_text():
    text = report_html(CaseReport("x", [view()], {"verdict": "uncalibrated", "notes": ["the start <was> guessed"]}))
    assert "the start &lt;was&gt; guessed" in text


def test_a_doubtful_result_says_so_in_the_first_heading():
    text = report_html(CaseReport("x", [view()], {"verdict": "uncalibrated", "doubt": "low similarity", "notes": ["a note"]}))
    first = re.search(r"<h2[^>]*>(.*?)</h2>", text)
    assert first is not None and first[1] == "Doubtful: low similarity"
    assert "a note" in text and "Accuracy not known" not in text
    assert "Accuracy not known" in report_html(CaseReport("x", [view()], {"verdict": "uncalibrated", "doubt": None}))


def test_mirrored_views_are_shown_mirrored_with_their_letters():
    straight, mirrored = shown(view(), 64), shown(view(mirrored=True), 64)
    np.testing.assert_array_equal(mirrored.xray, straight.xray[:, ::-1])
    np.testing.assert_array_equal(mirrored.drr, straight.drr[:, ::-1])
    pose = view().camera_from_world
    assert vars(edge_letters(pose)) == {"left": "L", "right": "R", "top": "H", "bottom": "F"}
    assert vars(edge_letters(pose, mirrored=True)) == {"left": "R", "right": "L", "top": "H", "bottom": "F"}
    lateral = np.array([[0.1, 0.99, 0, 0], [0, 0, -1, 0], [-0.99, 0.1, 0, 0], [0, 0, 0, 1]])
    assert vars(edge_letters(lateral)) == {"left": "P", "right": "A", "top": "H", "bottom": "F"}


def test_transparency_is_kept_only_as_png():
    assert data_uri(np.zeros((2, 2, 4), np.uint8)).startswith("data:image/png")
    assert data_uri(np.zeros((2, 2, 3), np.uint8)).startswith("data:image/jpeg")


@pytest.mark.parametrize(
    "key, value, text", [("mtre_3d", 1.234, "1.23 mm"), ("rotation_deg", 0.5, "0.50°"), ("mrpe", None, "not available"), ("x", 2.0, "2.00")]
)
def test_metrics_are_shown_with_their_unit(key, value, text):
    assert metric_value(key, value) == text


def test_bad_views_are_named_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="no view"):
        write_report(CaseReport("x", [], {}), tmp_path / "a.html")
    with pytest.raises(InputError, match="drr has shape"):
        write_report(CaseReport("x", [view(drr=np.zeros((3, 3)))], {}), tmp_path / "a.html")
    with pytest.raises(InputError, match="no case"):
        write_index("x", [], tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_written_reports_are_whole(tmp_path, full_text):
    path = write_report(full_case(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == full_text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_index_lists_cases_that_failed_too(tmp_path):
    entries = [
        IndexEntry("first", "first case/report.html", thumbnail(view()), {"mTRE (mm)": 0.4567, "n": 3}),
        IndexEntry("second", None, None, {"mTRE (mm)": float("nan"), "problem": "X-ray is empty"}),
        IndexEntry("third", "javascript:alert(1)", None, {}),
    ]
    page = parsed(write_index("All", entries, tmp_path / "index.html", {"Median": "0.5 mm"}).read_text(encoding="utf-8"))
    links = [attributes["href"] for name, attributes in page.elements if name == "a"]
    assert links == ["first%20case/report.html", "javascript%3Aalert%281%29"], "links stay inside the folder"
    for words in ("0.46", "X-ray is empty", "0.5 mm", "3 cases"):
        assert words in page.text
    assert "nan" not in page.text
