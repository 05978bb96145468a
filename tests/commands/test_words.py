"""One vocabulary over all verbs: help, refusals, run=, uri=, outputs=, --json and exit codes."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from tests.files import raise_score

from medretrieval import commands, compose, run
from medretrieval.cli import VERBS
from medretrieval.commands import words
from medretrieval.commands.many_runs import compare
from medretrieval.commands.one_run import query
from medretrieval.commands.words import ANY_KEY, CONFIG_DIR, IN_CONFIG, JSON, OUTPUTS, URI, Option, Verb
from medretrieval.config import root
from medretrieval.errors import UserError
from medretrieval.images.fit import Fit
from medretrieval.report.compare_tables import SUFFIXES
from medretrieval.track.find_runs import default_uri

TABLES = {name: commands.verb(name) for name in VERBS}
# A word that is needed beside the run, where one is.
NEEDED = {"confound": ["by=site"], "explain": ["query=test/3"], "query": ["image=a.png"]}
ONE_RUN = [name for name, verb in TABLES.items() if any(o.name == "run" and not o.many for o in verb.options)]
TINY = (
    "dataset=chest_phantom", "dataset._target_=tests.toy_datasets.Patients", "dataset.size=32",
    "dataset.n_train=20", "dataset.n_test=20", "encoder=timm",
    "encoder.model=test_resnet", "encoder.pretrained=null", "encoder.runtime=torch", "evaluation.ks=[1,3]",
    "evaluation.resamples=100", "evaluation.vote_k=3", "evaluation.baseline=none", "audit.enabled=false",
    "figures.enabled=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A sweep `s1` of two runs that could not be logged to MLflow."""
    place = tmp_path_factory.mktemp("words")
    for number, index in enumerate(("flat", "ivf")):
        folder = place / "outputs" / "sweeps" / "s1" / str(number)
        cfg = compose(
            f"paths.outputs={place / 'outputs'}", f"paths.cache={place / 'cache'}", f"index={index}", *TINY,
            "tracking=mlflow", "tracking.uri=http://127.0.0.1:9",
        )  # fmt: skip
        run(cfg, folder, "s1")
    (folder.parent / "multirun.yaml").write_text("")
    return place / "outputs"


def words_of(name, runs):
    """A whole command of a verb, on real runs."""
    if name == "data":
        return ["data", *TINY]
    if name == "cache":
        return ["cache", "list"]
    if name == "encoders":
        return ["encoders", "pixels"]
    if name == "list":
        return ["list", f"outputs={runs}"]
    chosen = [runs / "sweeps" / "s1"] if name not in ONE_RUN else [runs / "sweeps" / "s1" / "0"]
    return [name, *chosen, *NEEDED.get(name, [])]


# The table of each verb


def test_every_verb_is_a_module_of_its_name_and_no_module_is_forgotten():
    folder = Path(words.__file__).parent
    with_table = {p.stem for p in folder.rglob("*.py") if "\nVERB = Verb(" in p.read_text()}
    assert with_table == set(VERBS) == {verb.name for verb in TABLES.values()}


@pytest.mark.parametrize("name", VERBS)
def test_the_table_says_all_of_each_option(name):
    verb = TABLES[name]
    assert verb.examples
    for option in verb.options:
        assert option.meaning
        assert option.needed + (option.default is not None) + bool(option.unset) == 1
        assert option.default is None or option.read(str(option.default)) is not None
    named = {option.name for option in verb.options}
    assert verb.bare in (*named, None)
    for example in verb.examples:
        program, said, *arguments = shlex.split(example)
        assert (program, said) == ("medretrieval", name)
        verb.parse(arguments)


def test_shared_words_are_the_same_option_everywhere():
    for name, verb in TABLES.items():
        options = {option.name: option for option in verb.options}
        assert options["--json"] is JSON
        if name not in ("cache", "data", "encoders"):
            assert options["outputs"] is OUTPUTS
        if name not in ("cache", "data", "encoders", "list"):  # none of them asks MLflow
            assert options["uri"].value == URI.value
        if "--config-dir" in options:
            assert options["--config-dir"] is CONFIG_DIR
        assert ("track" in options) == (name in ("compare", "remove", "report"))
        assert verb.bare == {"cache": "action", "data": None, "encoders": "of", "list": "of"}.get(name, "run")


def test_tables_agree_with_what_they_choose_from():
    assert set(query.FITS) == {fit.value for fit in Fit}
    assert set(compare.FORMATS) == set(SUFFIXES)
    assert OmegaConf.load(root() / "conf" / "config.yaml").paths.outputs == OUTPUTS.default


# Help


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("place", [("-h",), ("run=x", "--help"), ("nonsense=1", "-h", "x")])
def test_help_shows_usage_options_defaults_and_an_example(say, name, place):
    code, out, err = say(name, *place)
    assert (code, err) == (0, "")
    verb = TABLES[name]
    assert out.startswith(f"usage: medretrieval {name} ")
    assert VERBS[name] in out
    flat = " ".join(out.split())
    for option in verb.options:
        row = f"  {option.name} " if option.dashed and not option.switch else f"  {option.key}"
        assert row in out
        default = option.unset if option.default is None else str(option.default)
        assert "(needed)" in flat if option.needed else f"(default: {default})" in flat
    for example in verb.examples:
        assert example in out


@pytest.mark.parametrize("name", VERBS)
def test_help_is_quick(tmp_path, name):
    code = (
        f"import sys; sys.argv = ['medretrieval', '{name}', '--help']\n"
        "from medretrieval.cli import main; main()\n"
        "print([m for m in ('torch', 'faiss', 'mlflow', 'numpy', 'pyarrow', 'hydra', 'omegaconf', 'PIL') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


# Refusals


@pytest.mark.parametrize("name", VERBS)
def test_an_unknown_key_is_refused_with_its_word_and_what_there_is(refused, name):
    line = refused(name, "kk=3")
    assert line.startswith(f"{name}: kk=3: no such key; ")
    for option in TABLES[name].options:
        assert option.name in line.split("choose from: ")[1]
    assert refused(name, "--nonsense").startswith(f"{name}: --nonsense: no such key; ")


@pytest.mark.parametrize("name", VERBS)
def test_a_key_that_is_nearly_one_is_answered_with_that_one(refused, name):
    for option in TABLES[name].options:
        if len(option.name) > 2:
            wrong = f"{option.name[:-1]}q{option.name[-1]}"
            line = refused(name, wrong if option.dashed else f"{wrong}=1")
            assert f"did you mean {option.name}? " in line


@pytest.mark.parametrize("name", VERBS)
def test_a_key_given_twice_or_empty_is_refused(refused, name):
    for option in TABLES[name].options:
        if option.switch:
            assert f"{option.name} is given twice" in refused(name, option.name, option.name)
            assert f"{option.name}=1: takes no value" in refused(name, f"{option.name}=1")
            continue
        assert refused(name, f"{option.name}=") == f"{name}: {option.name}=: give a value"
        if not option.many:
            line = refused(name, f"{option.name}=1", f"{option.name}=2")
            assert line == f"{name}: {option.name}=2: {option.key} is given twice; give it once"


@pytest.mark.parametrize("name", VERBS)
def test_a_value_of_another_type_or_choice_is_refused(refused, name):
    for option in TABLES[name].options:
        if option.allowed and not option.switch:
            wrong = refused(name, f"{option.name}=zzz")
            assert wrong == f"{name}: {option.name}=zzz: choose from: {', '.join(sorted(option.allowed))}"
        if option.type in (int, float):
            for value in ("many", "-1", "nan", "1_0", "9" * 400, *(["1.5"] if option.type is int else [])):
                line = refused(name, f"{option.name}={value}")
                assert f"{option.name}={value[:150]}" in line
                assert ": give a " in line


@pytest.mark.parametrize("name", VERBS)
def test_what_is_missing_is_named_with_the_usage(refused, name):
    first = next((option for option in TABLES[name].options if option.needed), None)
    if first is None:  # it can do without any word
        return
    assert refused(name) == (
        f"{name}: {first.key} is missing; medretrieval {name} {TABLES[name].usage[0]} (see --help)"
    )


@pytest.mark.parametrize(
    "name", [name for name in VERBS if name not in ("log", "cache", "data", "encoders", "list", "remove")]
)
def test_a_run_that_is_not_there_is_refused_in_the_same_line(refused, name):
    assert refused(name, "nowhere", *NEEDED.get(name, [])) == (
        "nowhere: no folder, no sweep in outputs/sweeps, and no finished run, experiment or sweep of MLflow "
        "at sqlite:///outputs/mlflow.db; give a run's folder, or outputs= or uri="
    )
    line = refused(name, "nowhere", "outputs=else", *NEEDED.get(name, []))
    assert "no sweep in else/sweeps" in line
    assert "MLflow at sqlite:///else/mlflow.db;" in line


def test_a_long_word_of_many_lines_is_refused_in_one(refused):
    line = refused("query", "txt=" + "lung\n" * 200)
    assert line.startswith("query: txt=lung lung")
    assert len(line) < 500


def test_a_key_of_an_earlier_version_is_refused_with_its_name_now(refused, outputs):
    assert refused("report", "s1", "log=false") == "report: log=false: log= is now called track="
    done = outputs / "sweeps" / "s1" / "0"
    assert "report.queries is now figures.queries" in refused("again", done, "report.queries=3")


# run=, uri= and outputs=


@pytest.mark.parametrize("name", [name for name, verb in TABLES.items() if verb.bare is not None])
def test_the_bare_word_is_the_named_one(name):
    verb = TABLES[name]
    value = "list" if name == "cache" else "a/b"
    needed = NEEDED.get(name, [])
    named = verb.parse([f"{verb.bare}={value}", *needed])
    assert getattr(named, verb.bare) in (value, [value])
    assert named == verb.parse([value, *needed]) == verb.parse([*needed, value])


def test_a_folder_with_an_equals_sign_is_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0_encoder=pixels").mkdir()
    assert compare.VERB.parse(["0_encoder=pixels", "seed=3"]).run == ["0_encoder=pixels"]
    with pytest.raises(UserError, match="1_encoder=pixels: no such key"):
        compare.VERB.parse(["1_encoder=pixels"])


def test_words_without_equals_sign_are_runs_even_where_they_are_called_like_a_key():
    assert compare.VERB.parse(["seed", "run=score", "uri=x"]).run == ["seed", "score"]


def test_a_bare_word_is_refused_where_it_has_no_meaning(refused):
    line = refused("data", "pneumoniamnist")
    assert line.startswith(
        "data: pneumoniamnist: not key=value; choose from: --json, out, or a word of a run"
    )


@pytest.mark.parametrize("name", [name for name, verb in TABLES.items() if verb.overrides or name == "plan"])
def test_two_names_of_one_thing_have_one_value(name):
    verb, needed = TABLES[name], ["x", *NEEDED.get(name, [])]
    for own, key in IN_CONFIG.items():
        for given_words in ([f"{own}=a/b"], [f"{key}=a/b"], [f"{own}=a/b", f"{key}=a/b"]):
            found = verb.parse([*needed, *given_words])
            assert str(getattr(found, own)) == "a/b"
            assert found.overrides == (f"{key}=a/b",)
        with pytest.raises(UserError, match=f"{own}=a and {key}=b: two names for the same setting"):
            verb.parse([*needed, f"{own}=a", f"{key}=b"])
    assert verb.parse(needed).overrides == ()


@pytest.mark.parametrize("name", [n for n, verb in TABLES.items() if not (verb.overrides or verb.composes)])
def test_verbs_that_take_no_configuration_say_what_its_keys_are_called_here(refused, name):
    for own, key in IN_CONFIG.items():
        if name != "cache" and any(option.name == own for option in TABLES[name].options):
            assert f"{key}=a: no such key; did you mean {own}?" in refused(name, f"{key}=a")


def test_overrides_are_kept_in_order_and_refused_twice():
    again = TABLES["again"]
    assert ANY_KEY in again.overrides
    assert again.parse(["x", "seed=3", "index.nlist=4"]).overrides == ("seed=3", "index.nlist=4")
    with pytest.raises(UserError, match="seed=4: seed= is given twice"):
        again.parse(["x", "seed=3", "seed=4"])
    with pytest.raises(UserError, match="seed=: give a value"):
        again.parse(["x", "seed="])
    with pytest.raises(UserError, match=r"index\.nlist=3: no such key"):  # it would change nothing
        TABLES["verify"].parse(["x", "index.nlist=3"])


def test_words_of_a_run_are_kept_as_they_stand():
    words_of_a_run = (
        "dataset=csv", "seed=3", "seed=4", "+dataset.x=1", "++seed=5", "~prompts", "experiments=x",
        "encoder@other=pixels", "hydra.verbose=true", "--config-dir", "conf", "-cd=b",
    )  # fmt: skip
    found = TABLES["data"].parse([*words_of_a_run[:3], "out=none", *words_of_a_run[3:], "--json"])
    assert (found.words, found.out, found.json) == (words_of_a_run, "none", True)
    for word in ("-m", "--multirun", "--cfg", "+nothing=1", "~x", "--config-dir"):
        with pytest.raises(UserError, match="data: "):
            TABLES["data"].parse([word])


@pytest.mark.parametrize("name", ONE_RUN)
def test_of_a_sweep_its_best_run_is_taken_and_named(say, outputs, tmp_path, name):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    code, out, err = say(name, "s1", f"outputs={outputs}", *NEEDED.get(name, []), "--json")
    assert code == 0, err
    assert err.startswith("s1: the best of 2 runs by precision_at_")
    assert Path(json.loads(out)["run"]).parent == (outputs / "sweeps" / "s1").resolve()


@pytest.mark.parametrize("name", ONE_RUN)
def test_a_run_is_named_by_its_manifest(say, outputs, tmp_path, name):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    folder = outputs / "sweeps" / "s1" / "0"
    code, out, err = say(name, folder / "manifest.json", *NEEDED.get(name, []), "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == str(folder)


def test_the_store_is_the_one_that_is_given_else_that_of_the_environment_else_that_of_outputs(monkeypatch):
    from medretrieval.commands.parts.named_runs import uri_of

    parse = compare.VERB.parse
    assert uri_of(parse(["x", "outputs=o"])) == default_uri(Path("o")) == "sqlite:///o/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert uri_of(parse(["x"])) == "http://there"
    assert uri_of(parse(["x", "uri=http://here"])) == "http://here"


# --json and exit codes, on real runs


@pytest.mark.parametrize("name", VERBS)
def test_json_is_all_of_stdout(say, outputs, database, tmp_path, name):
    shutil.copytree(outputs, tmp_path / "outputs", symlinks=True)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    extra = [f"uri={database}"] if any(option.name == "uri" for option in TABLES[name].options) else []
    code, out, err = say(*words_of(name, tmp_path / "outputs"), *extra, "--json")
    assert code == 0, err
    content = json.loads(out)
    assert isinstance(content, dict)
    wanted = {
        "compare": lambda: [r["number"] for r in content["runs"]] == [1, 2] and len(content["pairs"]) == 1,
        "query": lambda: len(content["queries"][0]["results"]) == 5,
        "report": lambda: content["runs"] == 2 and content["bytes"] == Path(content["report"]).stat().st_size,
        "verify": lambda: content["differences"] == [] and content["queries"] == 20,
        "again": lambda: content["differences"] == [] and content["new_run"] != content["run"],
        "confound": lambda: content["by"] == "site" and content["queries"] == 20,
        "identity": lambda: content["of"] == 20 and next(iter(content["scores"])) == "precision_at_1",
        "explain": lambda: content["pairs"][0]["query"] == "test/3" and content["picture"] is None,
        "log": lambda: content == {"logged": 2},
        "cache": lambda: content["entries"] == [],
        "list": lambda: [e["runs"] for e in content["entries"] if e["runs"]] == [{"finished": 2}],
        "data": lambda: content["page"] == "data_chest_phantom.html" and content["splits"][0]["images"] == 20,
        "encoders": lambda: "pixels" in [e["name"] for e in content["encoders"] if e["here"]],
        "plan": lambda: content["units"] == 10 and len(content["cases"]) == 3 and content["delta"] is None,
        "remove": lambda: content["removed"] is False and content["folders"][0]["runs"] == 2,
    }
    assert wanted[name]()


def test_actions_of_the_cache_have_json_too(say, outputs):
    cache = f"paths.cache={outputs.parent / 'cache'}"
    found = {
        action: json.loads(say("cache", action, cache, "--json")[1]) for action in ("list", "verify", "path")
    }
    assert {content["cache"] for content in found.values()} == {str(outputs.parent / "cache")}
    kinds = {entry["kind"] for entry in found["list"]["entries"]}
    assert {"embeddings", "indexes"} <= kinds
    assert found["verify"]["damaged"] == []
    planned = json.loads(say("cache", "prune", "--keep-gb", "0", "--dry-run", cache, "--json")[1])
    assert planned["dry_run"]
    assert planned["entries"] == found["list"]["entries"]
    pruned = json.loads(say("cache", "prune", "--keep-gb", "100", cache, "--json")[1])
    assert pruned["left_bytes"] == sum(entry["bytes"] for entry in found["list"]["entries"])


def test_the_numbers_of_a_comparison_are_those_of_its_table(say, outputs):
    shared = ("compare", "s1", f"outputs={outputs}", "track=false", "family=all", "resamples=100")
    content = json.loads(say(*shared, "--json")[1])
    _, table, _ = say(*shared, "format=csv")
    header, first, second = (line.split(",") for line in table.splitlines())
    (pair,) = content["pairs"]
    assert float(first[header.index("value")]) == content["runs"][0]["value"]
    assert float(second[header.index("difference")]) == pair["difference"]
    assert float(second[header.index("p_corrected")]) == pair["p_corrected"]
    assert (pair["run"], pair["minus_run"]) == (2, content["reference"])


def test_two_formats_on_stdout_are_refused(refused):
    assert refused("compare", "x", "--json", "format=csv").startswith("compare: --json and format=csv: both")


def test_what_differs_is_json_and_exit_code_1(say, outputs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(outputs / "sweeps" / "s1" / "0", folder, symlinks=True)
    raise_score(folder)
    code, out, _ = say("verify", folder, "--json")
    assert code == 1
    assert any("map is" in line for line in json.loads(out)["differences"])


# The table itself


TOY = Verb(
    "compare",
    usage=("<run>",),
    options=(
        Option("run", "what", "<run>", unset="none"),
        Option("text", "a sentence", "<text>", unset="none", many=True),
        Option("k", "a number", "<n>", int, least=1, default=5),
        Option("share", "50 % of it", "<p>", float, least=0.5, most=1, default=0.5),
        JSON,
    ),
    run=lambda given: 0,
    examples=("medretrieval compare x",),
)


@settings(max_examples=200, deadline=None)
@given(st.text().filter(str.strip), st.integers(1, 10**9), st.floats(0.5, 1))
def test_values_arrive_as_they_were_written(text, k, share):
    found = TOY.parse([f"text={text}", f"k={k}", f"share={share!r}", f"text=-{text}", "--json"])
    assert found.text == [text, f"-{text}"]
    assert (found.k, found.share, found.json, found.run) == (k, share, True, None)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=4))
def test_whatever_is_said_is_understood_or_refused_in_one_line(arguments):
    line = None
    try:
        k = TOY.parse(arguments).k
    except UserError as error:
        k, line = 0, str(error)
    if line is None:
        assert k >= 1
    else:
        assert len(line.splitlines()) == 1
        assert line.startswith("compare: ")


def test_a_percent_sign_in_the_table_is_printed():
    assert "50 % of it (default: 0.5)" in TOY.help()
