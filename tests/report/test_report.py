import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from omegaconf import OmegaConf
from tests.files import edit_json
from tests.mlflow_store import only_run
from tests.refusals import refusal
from tests.report_runs import FAST

from medretrieval import run
from medretrieval.cli import VERBS
from medretrieval.commands.many_runs import compare as compare_verb
from medretrieval.commands.many_runs.report import VERB
from medretrieval.errors import UserError
from medretrieval.evidence.pareto import pareto_front
from medretrieval.figures.examples import thumbnail
from medretrieval.figures.labels import overlap
from medretrieval.report import charts, pictures
from medretrieval.report.charts import Scale
from medretrieval.report.compare import compare
from medretrieval.report.gather import gather
from medretrieval.report.page import interval
from medretrieval.report.pictures import Album, read_pictures
from medretrieval.runs.folder import MLFLOW_SOURCE
from medretrieval.runs.saved.seal import unverified
from medretrieval.track.find_runs import load_run
from medretrieval.track.tracker import Sweep, mlflow_at

main = VERB.main


class Page(HTMLParser):
    """Tags with their attributes, ids, and the cells of the tables of runs."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.depth, self.inside = [], [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "tr" and "data-run" in found:
            self.rows.append((found, []))
        if tag == "td" and self.rows:
            self.rows[-1][1].append(found.get("data-v"))

    def all(self, tag):
        return [found for name, found in self.tags if name == tag]


@pytest.fixture(autouse=True)
def _as_they_are():
    """Tests here change files of runs, which is refused elsewhere (tests/test_verify.py)."""
    with unverified():
        yield


@pytest.fixture
def sweep(finished_sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_sweep, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs" / "sweeps" / "s1"


def report(*words):
    assert main([*map(str, words), "track=false"]) == 0


def page_of(sweep):
    report(sweep)
    return (sweep / "report.html").read_text()


def refused(*words):
    return refusal(main, [str(word) for word in words])


def runs_of(sweep):
    return [load_run(p.parent, str(p.parent)) for p in sorted(sweep.rglob("scores.json"))]


def thumbnails_of(text):
    """The data URIs that a page holds."""
    return json.loads(text.split('id="thumbs">')[1].split("</script>")[0])


def test_numbers_are_those_of_the_runs_and_of_compare(sweep):
    page = Page(page_of(sweep))
    runs = runs_of(sweep)
    options = compare_verb.options_of(compare_verb.VERB.parse([str(sweep), "family=all"]), runs)
    options = dataclasses.replace(options, **FAST)
    found = compare(runs, options)
    assert len(page.rows) == 4
    by_source = {r.source: r.report for r in runs}
    for number, (_, cells) in enumerate(page.rows):
        report = by_source[found.sources[number]]
        score = report.objective.name
        values = [float(cell) for cell in cells if cell]
        assert values[0] == number + 1
        for wanted in (
            report.objective.value,
            report.chance[score],
            report.lift[score],
            report.speed.latency_ms.p50,
            report.speed.bytes_per_vector,
        ):
            assert wanted in values
        if number:
            pair = next(p for p in found.pairs if (p.a, p.b) == (number, 0))
            assert pair.difference in values
            assert pair.adjusted in values
    text = (sweep / "report.html").read_text()
    for pair in found.pairs:
        if pair.b == 0:
            assert interval(pair.corrected, signs=True) in text
    for name, ends in runs[0].report.intervals.items():
        assert name in text
        assert f"{ends.low:.4f} to {ends.high:.4f}" in text
    for note in runs[-1].report.notes:
        assert note in text.replace("&#39;", "'")


def test_the_page_asks_for_nothing_from_outside(sweep):
    text = page_of(sweep)
    for tag, attributes in Page(text).tags:
        assert "srcset" not in attributes
        for name in ("src", "href", "action", "data", "poster"):
            value = attributes.get(name)
            here = value is None or value.startswith(("#", "data:image/png;base64,"))
            assert here or (sweep / value).is_file(), (tag, name, value)
    assert "//" not in re.sub(r"(?m)^ *//.*$|// .*$", "", text.split("<style>")[1].split("</style>")[0])
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?:", text)
    (policy,) = [m["content"] for m in Page(text).all("meta") if m.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:")


def test_contents_lead_to_every_section(sweep):
    page = Page(page_of(sweep))
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    within = [found["href"][1:] for found in page.all("a") if found["href"].startswith("#")]
    assert set(within) <= set(ids)
    assert {"question", "g1", "g1-runs", "g1-cost", "g1-data", "g1-each", "reading", "again"} <= set(within)


def test_every_run_links_to_its_map_and_its_vote_wherever_the_page_lies(sweep, tmp_path):
    out = tmp_path / "a folder" / "r.html"
    report(sweep, f"out={out}")
    links = [unquote(a["href"]) for a in Page(out.read_text()).all("a") if not a["href"].startswith("#")]
    found = {(out.parent / link).resolve() for link in links}
    wanted = {
        (sweep / str(number) / "figures" / name).resolve()
        for number in range(4) for name in ("embedding_map.html", "vote.png")
    }  # fmt: skip
    assert found == wanted
    assert len(links) == 8


def test_a_run_from_mlflow_has_no_links_into_a_folder_that_is_gone(sweep):
    runs = [dataclasses.replace(run, source=f"{MLFLOW_SOURCE}{run.source}") for run in runs_of(sweep)]
    assert [view.links for view in gather(runs, sweep).runs] == [{}] * 4


def test_the_score_stands_before_all_else(sweep):
    text = page_of(sweep)
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", text.split('<table class="runs')[1].split("</thead>")[0])
    assert heads[:2] == ["#", "precision_at_3"]


def test_a_run_without_failures_says_so_in_place_of_a_gallery(sweep):
    def perfect(document):
        document |= {"worst": [], "failing": 0}

    edit_json(sweep / "0" / "figures" / "examples.json", perfect)
    text = page_of(sweep)
    assert text.count("No failure to show: no query has fewer relevant images among its first 3 results") == 1


def test_text_of_files_is_shown_and_never_run(config, write_npz, tmp_path):
    write_npz(n=24)
    odd = "<script>alert(1)</script>"
    words = ("dataset=breastmnist", "encoder=pixels", f"dataset.classes=['{odd}',b]")
    done = run(config(*words, "figures.enabled=true", "evaluation.resamples=100"))
    edit_json(done.folder / "scores.json", lambda c: c["notes"].append(odd))
    report(done.folder, f"out={tmp_path / 'r.html'}")
    text = (tmp_path / "r.html").read_text()
    assert odd not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5
    assert "28 × 28 pixels, label type single</span>" in text
    assert len(Page(text).all("script")) == 2


def test_protocols_and_data_are_ranked_apart(sweep):
    other = sweep.parents[1] / "other"
    report(sweep, other, "out=both.html")
    text = Path("both.html").read_text()
    page = Page(text)
    tables = [found for found in page.all("table") if "runs" in found.get("class", "")]
    assert len(tables) == 2
    assert text.count("leave_one_out, precision_at_3</h2>") == 1
    assert text.count("query_gallery, precision_at_3</h2>") == 1
    assert [row["data-protocol"] for row, _ in page.rows] == ["query_gallery"] * 4 + ["leave_one_out"]
    assert "One run: there is nothing to compare it with here." in text
    assert {found["name"] for found in page.all("select")} == {"protocol", "encoder", "index"}


def test_runs_of_other_seeds_are_told_apart_by_it(sweep):
    edit = {"seed": 3, "fingerprint": "another"}
    shutil.copytree(sweep / "0", sweep / "4", symlinks=True)
    edit_json(sweep / "4" / "scores.json", lambda c: c.update(fingerprint=edit["fingerprint"]))
    config = (sweep / "4" / "config.yaml").read_text()
    (sweep / "4" / "config.yaml").write_text(re.sub(r"(?m)^seed: 0", "seed: 3", config))
    text = page_of(sweep)
    assert "seed=3" in text
    assert re.search(r"<dt>seed</dt><dd>0, 3</dd>", text)


def test_an_option_of_the_same_encoder_counts_as_varied_and_those_of_another_do_not(sweep):
    shutil.copytree(sweep / "0", sweep / "4", symlinks=True)
    edit_json(sweep / "4" / "scores.json", lambda c: c.update(fingerprint="another"))
    config = (sweep / "4" / "config.yaml").read_text()
    (sweep / "4" / "config.yaml").write_text(re.sub(r"(?m)^  side: 28", "  side: 14", config))
    varied = gather(runs_of(sweep), sweep).varied
    assert varied["encoder.side"] == ["28", "14"]
    assert not {"encoder._target_", "index.factory", "paths.outputs"} & varied.keys()


def test_the_same_run_counts_once(sweep):
    report(sweep, sweep / "0", "out=twice.html")
    assert len(Page(Path("twice.html").read_text()).rows) == 4


def test_a_run_without_pictures_says_so(sweep):
    report(sweep.parents[1] / "other", "out=other.html")
    text = Path("other.html").read_text()
    assert text.count("This run has no pictures of its results") == 1
    assert "data-thumb" not in text.split("<script")[0]


def test_pictures_are_stored_once_and_every_reference_is_to_one(sweep):
    text = page_of(sweep)
    stored = thumbnails_of(text)
    assert len(stored) == len(set(stored)) > 10
    shown = {int(found["data-thumb"]) for found in Page(text).all("img") if "data-thumb" in found}
    assert shown == set(range(len(stored)))
    assert "This run has no pictures" not in text
    assert text.count("relevant: </span>") == text.count('class="sign"')
    assert all(found["alt"] for found in Page(text).all("img"))


def test_a_run_that_is_not_the_best_shows_fewer_and_says_how_many_more(sweep):
    folder, album = sweep / "0", Album()
    written = json.loads((folder / "figures" / "examples.json").read_text())
    rows = {kind: len(written[kind]) for kind in (*pictures.KINDS, "hubs")}
    assert min(rows.values()) > pictures.FEW_ROWS
    whole, few = (read_pictures(folder, "here", album, whole) for whole in (True, False))
    assert {kind: len(shown) for kind, shown in whole.galleries.items()} | {"hubs": len(whole.hubs)} == rows
    assert whole.left_out == 0
    assert [len(shown) for shown in (*few.galleries.values(), few.hubs)] == [pictures.FEW_ROWS] * 4
    assert few.left_out == sum(rows.values()) - 4 * pictures.FEW_ROWS


def test_thumbnails_stay_within_their_room(sweep, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_ALBUM_CHARACTERS", 20_000)
    text = page_of(sweep)
    stored = thumbnails_of(text)
    assert 5_000 < sum(map(len, stored)) <= 20_000
    assert "more rows are in" in text


def test_twenty_four_runs_with_large_thumbnails_stay_small_enough_for_mail(sweep):
    """Each with images of its own that PNG cannot compress, together more than the page has room for."""

    def enlarge(examples, number):
        for name in examples["thumbnails"]:
            rng = np.random.default_rng([number, *name.encode()])
            noise = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
            examples["thumbnails"][name] = thumbnail(noise, 64)

    for i in range(24):
        place = sweep / str(i)
        if i >= 4:
            shutil.copytree(sweep / str(i % 4), place, symlinks=True)
            edit_json(place / "scores.json", lambda c, i=i: c.update(fingerprint=str(i)))
        edit_json(place / "figures" / "examples.json", lambda c, i=i: enlarge(c, i))
    report(sweep)
    assert len(Page((sweep / "report.html").read_text()).rows) == 24
    assert pictures.MAX_ALBUM_CHARACTERS < (sweep / "report.html").stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c, first: c["thumbnails"].pop(first), "no thumbnail of {first}"),
        (
            lambda c, first: c["thumbnails"].update({first: "https://example.org/a.png"}),
            "the thumbnail of {first} is no PNG",
        ),
        (
            lambda c, first: c["thumbnails"].update({first: "data:image/png;base64,AAAA"}),
            "the thumbnail of {first} is no PNG",
        ),
        (
            lambda c, first: c["thumbnails"].update({first: thumbnail(np.zeros((65, 65), np.uint8), 65)}),
            "the thumbnail of {first} is 65 x 65, more than 64 a side",
        ),
        (lambda c, first: c["retrieval"][0].update(score="good"), "the score of {first} is no number"),
        (lambda c, first: c["retrieval"][0]["results"][0].update(relevant=1), "is not true or false"),
        (lambda c, first: c.pop("hubs"), "'hubs' is missing"),
        (lambda c, first: c["confusion"]["share"].pop(), "confusion.share is not square"),
        (lambda c, first: c.update(worst=3), "not as it should be"),
    ],
)
def test_a_file_that_breaks_the_contract_is_named_and_costs_only_its_part(sweep, change, said):
    path = sweep / "0" / "figures" / "examples.json"
    first = json.loads(path.read_text())["retrieval"][0]["id"]
    edit_json(path, lambda c: change(c, first))
    found = read_pictures(sweep / "0", "the run", Album(), whole=True)
    (problem,) = found.problems
    assert problem.startswith("the run/figures/examples.json: ")
    assert said.format(first=first) in problem
    assert found.examples is None
    assert found.curves is not None
    assert "figures/examples.json: " in page_of(sweep)


@pytest.mark.parametrize("text", ["{", "[]", '{"ks": [2, 1]}', '{"ks": [1], "precision": {"mean": [1, 2]}}'])
def test_curves_that_break_the_contract_are_named(sweep, text):
    (sweep / "0" / "figures" / "curves.json").write_text(text)
    found = read_pictures(sweep / "0", "the run", Album(), whole=True)
    assert [p.split(":")[0] for p in found.problems] == ["the run/figures/curves.json"]
    assert found.examples is not None


def test_what_cannot_be_reported_is_refused_in_one_line(sweep, tmp_path):
    assert "no folder, no sweep in outputs/sweeps" in refused("20990101-000000-000000", "track=false")
    (tmp_path / "empty").mkdir()
    assert "no finished run in it" in refused("empty", "track=false")
    assert "report: run= is missing; medretrieval report <run> <run>" in refused("track=false")
    assert "format=pdf: no such key; choose from: --config-dir, --json, --unverified, out," in refused(
        sweep, "format=pdf"
    )
    assert "track=maybe: choose from: false, true" in refused(sweep, "track=maybe")
    assert refused(sweep, "log=true") == "report: log=true: log= is now called track="
    assert "a folder; give the name of a file" in refused(sweep, "out=empty")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(sweep, "out=file/r.html", "track=false")
    edit_json(sweep / "0" / "scores.json", lambda c: c.update(format=4))
    assert "results format 4" in refused(sweep, "track=false")
    assert not (sweep / "report.html").exists()


def test_the_page_is_where_the_sweep_is_unless_told_otherwise(sweep, tmp_path, capsys):
    report("s1")
    assert (sweep / "report.html").exists()
    assert "s1/report.html: 4 runs" in capsys.readouterr().out
    report(sweep / "0", sweep / "1")
    assert (tmp_path / "outputs" / "report.html").exists()


def test_a_sweep_says_which_of_its_runs_failed(sweep):
    (sweep / "9" / ".hydra").mkdir(parents=True)
    (sweep / "9" / ".hydra" / "overrides.yaml").write_text("- index=ivf\n")
    (sweep / "9" / "failed.txt").write_text("index.nlist=9999: too many\n")
    (sweep / "0" / ".hydra").mkdir()
    (sweep / "0" / ".hydra" / "overrides.yaml").write_text("- encoder=pixels\n- index=flat\n")
    text = page_of(sweep)
    assert "failed: 9: index.nlist=9999: too many" in text
    assert "medretrieval encoder=pixels index=flat\nmedretrieval again " in text


def test_it_says_how_to_do_it_again(sweep):
    words = ["/somewhere/medretrieval", "--multirun", "index=flat,ivf", "encoder=pixels"]
    edit_json(sweep / "0" / "manifest.json", lambda c: c.update(command=words))
    text = page_of(sweep)
    assert "<pre>medretrieval --multirun index=flat,ivf encoder=pixels</pre>" in text
    manifest = json.loads((sweep / "1" / "manifest.json").read_text())
    for fact in (manifest["libraries"]["numpy"], manifest["python"], manifest["machine"]["platform"]):
        assert str(fact) in text
    assert "/somewhere" not in text


def artifacts_of(client, found):
    return {file.path for file in client.list_artifacts(found.info.run_id)}


def test_it_is_logged_with_its_sweep_and_linked_there(sweep, database, capsys):
    mlflow_at(database).log_sweep(Sweep(Path("s1"), [r.report for r in runs_of(sweep)]))
    assert main(["s1", f"uri={database}", "track=true"]) == 0
    assert main(["s1", f"uri={database}", "track=true"]) == 0
    client, found = only_run(database)
    assert artifacts_of(client, found) == {"sweep.txt", "report.html"}
    note = found.data.tags["mlflow.note.content"]
    assert note.count("/artifacts/report.html)") == 1
    assert "| pixels | " in note
    assert f"run {found.info.run_id}" in capsys.readouterr().err


def test_some_runs_of_a_sweep_are_not_the_sweep_and_get_a_run_of_their_own(sweep, database):
    assert main([str(sweep / "0"), str(sweep / "1"), "out=two.html", f"uri={database}", "track=true"]) == 0
    client, found = only_run(database)
    assert found.info.run_name == "report of 2 runs"
    assert found.info.status == "FINISHED"
    assert artifacts_of(client, found) == {"report.html"}
    assert "sweep s1" not in Path("two.html").read_text()


def test_mlflow_being_away_costs_a_warning_not_the_file(sweep, tmp_path, caplog):
    (tmp_path / "blocked").write_text("")
    assert main([str(sweep), "uri=sqlite:///blocked/mlflow.db", "track=true"]) == 0
    assert "cannot be reached" in caplog.text
    assert "what report made is not logged there" in caplog.text
    assert (sweep / "report.html").exists()


def test_the_tracker_of_the_runs_is_not_made_where_it_keeps_nothing(sweep):
    """Its class may be gone, or it may talk to a server that is away."""
    for config in sweep.glob("*/config.yaml"):
        content = OmegaConf.load(config)
        content.tracking = {"_target_": "gone.Tracker"}
        OmegaConf.save(content, config)
    assert main([str(sweep), "track=false"]) == 0
    assert main([str(sweep)]) == 0  # as where nothing is said
    with pytest.raises(UserError, match=r"gone.Tracker"):
        main([str(sweep), "track=true"])


def test_the_verb_is_known():
    assert "report" in VERBS


def test_ticks_are_round_and_inside():
    assert list(Scale(0.78, 0.84, 0, 1).ticks()) == pytest.approx([0.78, 0.80, 0.82, 0.84])
    assert list(Scale(0.05, 1.2, 0, 1, log=True).ticks()) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1])
    narrow = Scale(3000, 5400, 0, 1, log=True).ticks()
    assert narrow[4000] == "4,000"
    assert list(narrow) == pytest.approx([3000, 3500, 4000, 4500, 5000])
    scale = Scale(1, 100, 10, 20, log=True)
    assert [scale(v) for v in (1, 10, 100)] == [10, 15, 20]


def test_numbers_in_a_chart_stand_apart_and_inside_it():
    rng = np.random.default_rng(0)
    points = [
        charts.Point(f"r{i}", i + 1, i % 3, f"run {i}", 10 ** rng.uniform(-1, 1), rng.uniform(), None, None)
        for i in range(20)
    ]
    drawn = str(charts.scatter(points, "ms", "score", "a & b", "k"))
    assert "a &amp; b" in drawn
    places = re.findall(r'<text class="(?:first)?" x="([\d.]+)" y="([\d.]+)">(\d+)<', drawn)
    boxes = [(float(x), float(y) - 9, float(x) + charts.DIGIT * len(t), float(y) + 1) for x, y, t in places]
    assert len(boxes) == 20
    assert all(overlap(np.array([a]), np.array([b])) == 0 for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(a >= 0 and b >= 0 and c <= charts.WIDTH and d <= charts.HEIGHT for a, b, c, d in boxes)
    front = pareto_front(np.array([[p.y, p.x] for p in points]), [True, False])
    assert {int(n) for n in re.findall(r'class="first"[^>]*>(\d+)<', drawn)} == set(1 + np.flatnonzero(front))


def test_words_of_prompts_are_not_what_image_runs_vary_in(sweep):
    for name, word in (("0", "a"), ("1", "b")):
        path = sweep / name / "config.yaml"
        text, count = re.subn(r"templates:\n  - .*", f"templates:\n  - '{word} {{}}'", path.read_text())
        assert count == 1
        path.write_text(text)
    assert "prompts.templates" not in page_of(sweep)


def test_runs_that_repeat_each_other_are_said_to(sweep, tmp_path):
    shutil.copytree(sweep / "0", tmp_path / "twin", symlinks=True)
    report(sweep / "0", tmp_path / "twin", f"out={tmp_path / 'r.html'}")
    assert (
        "The runs are repetitions of one another: there is nothing to compare."
        in (tmp_path / "r.html").read_text()
    )


def test_a_skipped_run_whose_results_are_gone_is_said_and_costs_only_itself(sweep, caplog):
    (sweep / "9").mkdir()
    (sweep / "9" / "skipped.json").write_text(json.dumps({"run": "../../gone"}))
    assert "4 runs" in page_of(sweep)
    assert "gone; it held the results of a run that was skipped" in caplog.text
