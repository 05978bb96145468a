"""What is misspelt is answered with what was meant."""

import pytest


def line_of(done):
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert (done.returncode, done.stdout) == (1, "")
    return line.removeprefix("medretrieval: ")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("indx=flat", "indx: no such key; did you mean index? choose from: adapt,"),
        ("index=hsnw", "index=hsnw: there is no such index; did you mean hnsw? choose from: flat,"),
        (
            "metric=cosin",
            "metric=cosin: there is no such metric; did you mean cosine? choose from: cosine, ip, l2",
        ),
        (
            "experiments=index_type",
            "experiments=index_type: there is no such preset; did you mean index_types? ",
        ),
        (
            "experiments=published/mahbod2025",
            "experiments=published/...: published rows are no preset; put a run beside them with "
            "medretrieval compare <run> published=<table>; choose from: mahbod2025",
        ),
        ("index.nprob=4", "index.nprob: no such key; did you mean index.nprobe? choose from: autotune,"),
        (
            "evaluation.kss=[1]",
            "evaluation.kss: no such key; did you mean evaluation.ks? choose from: baseline,",
        ),
        ("encoder.sied=3", "encoder.sied: no such key; did you mean encoder.side? "),
        ("nprobe=4", "nprobe: no such key; did you mean index.nprobe? choose from: adapt,"),
        ("zebra=4", "zebra: no such key; choose from: adapt,"),
        (
            "evaluation.baseline=pixel",
            "evaluation.baseline=pixel: not one of its values; did you mean pixels? choose from: none,",
        ),
        (
            "protocol.query=tst",
            "protocol.query=tst: not one of its values; did you mean test? choose from: test,",
        ),
        (
            "evaluation.objective=precison_at_5",
            "evaluation.objective=precison_at_5: no score that can be the objective; did you mean precision",
        ),
        ("+index.nprob=4", "index.nprob: no such key; did you mean index.nprobe? "),
        ("+extra=4", "extra: no such key; choose from: adapt,"),
    ],
)
def test_a_misspelt_word_is_answered_with_what_was_meant(word, said, command, write_npz):
    write_npz()
    assert line_of(command("dataset=breastmnist", "encoder=pixels", "tracking=none", word)).startswith(said)


def test_a_sweep_with_a_misspelt_value_starts_no_run_and_leaves_no_folder(command, tmp_path):
    line = line_of(command("-m", "index=flat,hsnw", "tracking=none"))
    assert line.startswith("index=hsnw: there is no such index; did you mean hnsw?")
    assert list((tmp_path / "outputs").rglob("*.*")) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: \xff\n", "no UTF-8 text"),
        (b"name: a\x00b\n", "not valid YAML (a character that no text has)"),
        (b"a: " + b"[" * 2000 + b"]" * 2000 + b"\n", "nested too deeply"),
        (b"a: &a [*a]\n", "nested too deeply"),
        (b"# @package _glbal_ed: 1\n", "own.yaml: cannot be read (Too many components"),
    ],
)
def test_a_file_that_no_parser_gets_through_is_one_line(content, said, refused, tmp_path):
    (tmp_path / "mine" / "metric").mkdir(parents=True)
    (tmp_path / "mine" / "metric" / "own.yaml").write_bytes(content)
    assert said in refused("metric=own", "--config-dir", "mine", "tracking=none")


def test_options_may_stand_between_the_words_of_a_run(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    assert "metric=cosin: " in refused("index=flat", "--config-dir", "mine", "metric=cosin")


@pytest.mark.parametrize("name", ["x" * 300, "y/" * 2000])
def test_a_path_that_no_disk_takes_is_one_short_line(name, command, tmp_path):
    small = ("dataset.n_train=20", "dataset.n_test=12", "evaluation.ks=[1]")
    for key in ("paths.outputs", "paths.cache"):
        words = (
            "dataset=chest_phantom",
            *small,
            "encoder=random",
            "tracking=none",
            f"{key}={tmp_path}/{name}",
        )
        assert len(line_of(command(*words))) < 400
