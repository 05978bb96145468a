"""Sentence encoders: what their files say, strictly, from a folder and from a zip file."""

import json
import logging
import sys
import zipfile

import numpy as np
import pytest
from tests.refusals import refusal
from tests.tiny_models import write_sentence_model

from medretrieval.encoders.composed.sentences import SentenceEncoder

pytest.importorskip("transformers")
WORDS = ("a", "clear", "left", "lung", "opacity", "right")
TEXTS = ["left lung clear", "a a a a a a opacity", "right", "lung", ""]
REAL = "package:all_minilm_l6_v2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_model(tmp_path_factory.mktemp("model"), WORDS)


def encoder(where):
    return SentenceEncoder("dual", str(where))


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as file:
        for name in sorted(folder.rglob("*")):
            file.write(name, name.relative_to(folder))


def test_vectors_are_the_mean_over_tokens_of_length_1(folder):
    """Against a pass in one padded batch with the mask, as the model's card writes it."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig.from_json_file(folder / "config.json")
    model = BertModel(config).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    known = dict(zip(("", *sorted(WORDS)), [None, *range(4, 4 + len(WORDS))], strict=True))
    rows = [[2, *(known[word] for word in text.split()), 3] for text in TEXTS]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros(ids.shape)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    expected = torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1, keepdim=True), dim=1)
    np.testing.assert_allclose(encoder(folder).encode(TEXTS), expected.numpy(), atol=1e-6)


def test_a_vector_does_not_depend_on_the_sentences_beside_it(folder):
    ready = encoder(folder)
    alone = np.concatenate([ready.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(ready.encode(TEXTS), alone, atol=1e-6)


def test_a_long_sentence_is_cut_where_the_model_s_files_say_and_the_log_says_so(tmp_path, caplog):
    short = encoder(write_sentence_model(tmp_path, WORDS, context=4))
    with caplog.at_level(logging.WARNING):
        vectors = short.encode(["a lung is clear", "a lung", "right"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert [record.getMessage() for record in caplog.records] == [
        "encoder=dual: of 1 of 3 sentences only the first 4 tokens are read, as many as the sentence encoder "
        "takes"
    ]
    assert short.encode(["a lung right clear"]).tolist() == vectors[1:2].tolist()


@pytest.mark.parametrize(
    ("said", "context"), [({"model_max_length": 7}, 7), ({"model_max_length": 1e30}, 64)]
)
def test_newer_files_say_the_length_elsewhere(tmp_path, said, context):
    files = {"sentence_bert_config.json": None, "tokenizer_config.json": json.dumps(said).encode()}
    assert encoder(write_sentence_model(tmp_path, WORDS, **files)).context == context


def test_a_zip_file_of_a_package_is_read_as_the_folder_is_and_nothing_is_executed(
    folder, tmp_path, monkeypatch
):
    package = tmp_path / "tiny_sentences"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('executed')")
    zipped(folder, package / "model.zip")
    monkeypatch.syspath_prepend(tmp_path)
    packed = encoder("package:tiny_sentences")
    assert packed.here() == (True, "installed package")
    assert packed.identity() == encoder(folder).identity()
    assert packed.encode(TEXTS).tolist() == encoder(folder).encode(TEXTS).tolist()
    assert sorted(path.name for path in package.iterdir()) == ["__init__.py", "model.zip"]
    assert "tiny_sentences" not in sys.modules
    assert packed.signature() != encoder(folder).signature()  # of the zip file, which is not read for it


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "1_Pooling/config.json"]
)
def test_the_identity_is_that_of_the_files(folder, tmp_path, name):
    copy = write_sentence_model(tmp_path, WORDS)
    assert encoder(copy).identity() == encoder(folder).identity()
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    for of in (SentenceEncoder.identity, SentenceEncoder.signature):
        assert of(encoder(copy)) != of(encoder(folder))


def steps(*kinds):
    return json.dumps([{"path": "", "type": f"x.{kind}"} for kind in kinds]).encode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modules.json": None}, "has no modules.json, which the layout of sentence-transformers asks for"),
        ({"model.safetensors": None}, "has no model.safetensors"),
        ({"model.safetensors": b"x" * 40}, "model.safetensors cannot be read"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json is no tokenizer"),
        ({"config.json": b"{"}, "config.json is no JSON"),
        ({"config.json": b'{"model_type": "no"}'}, "config.json is of no model that transformers builds"),
        ({"modules.json": b'{"a": 1}'}, "modules.json is no list of steps"),
        ({"modules.json": steps("Transformer", "Pooling", "Dense")}, "steps are Transformer, Pooling, Dense"),
        ({"1_Pooling/config.json": b'{"pooling_mode": "cls"}'}, "pools by cls"),
        ({"1_Pooling/config.json": b'{"pooling_mode_max_tokens": true}'}, "pools by pooling_mode_max_tokens"),
        (
            {"config_sentence_transformers.json": b'{"default_prompt_name": "query"}'},
            "puts a prompt before each sentence",
        ),
        ({"sentence_bert_config.json": None, "config.json": b'{"model_type": "t5"}'}, "how long a sentence"),
    ],
)
def test_what_is_not_whole_or_not_supported_is_refused_in_one_line(tmp_path, changes, said):
    ready = encoder(write_sentence_model(tmp_path, WORDS, **changes))
    assert said in refusal(lambda: (ready.context, ready.encode(["lung"])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s.pop("encoder.layer.0.output.dense.bias"),
            "no tensor 'encoder.layer.0.output.dense.bias'",
        ),
        (lambda s: s.update({"head.weight": s["pooler.dense.bias"] + 1}), "it also has 'head.weight'"),
    ],
)
def test_tensors_have_to_be_the_model_s(tmp_path, change, said):
    from safetensors.torch import load_file, save_file

    file = write_sentence_model(tmp_path, WORDS) / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    assert said in refusal(encoder(tmp_path).encode, ["lung"])


def test_a_pooler_may_be_there_or_not(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    file = write_sentence_model(tmp_path, WORDS) / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("pooler.")}, file)
    np.testing.assert_array_equal(encoder(tmp_path).encode(TEXTS), encoder(folder).encode(TEXTS))


def test_what_is_not_there_is_said_with_the_way_to_get_it(tmp_path, monkeypatch):
    assert "no such folder" in refusal(encoder(tmp_path / "no").identity)
    line = refusal(encoder("package:no_such_module").signature)
    assert "no_such_module, which is not installed; pip install 'medretrieval[sentences]'" in line
    assert encoder("package:no_such_module").here()[0] is False
    (tmp_path / "no_zip").mkdir()
    (tmp_path / "no_zip" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert "holds 0 zip files" in refusal(encoder("package:no_zip").signature)
    (tmp_path / "no_zip" / "model.zip").write_bytes(b"no zip")
    assert "no zip file that can be read" in refusal(encoder("package:no_zip").identity)


@pytest.mark.slow
def test_the_vectors_of_the_package_are_those_of_sentence_transformers(tmp_path):
    pytest.importorskip("all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    packed = encoder(REAL)
    with zipfile.ZipFile(packed.place) as file:
        file.extractall(tmp_path)
    texts = ["An opacity in the left lower lung.", "COVID-19, day 3.", "", "Café — 37.8 °C", "word " * 400]
    theirs = library.SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    assert packed.context == theirs.max_seq_length == 256
    np.testing.assert_allclose(packed.encode(texts), theirs.encode(texts), atol=1e-5)
    assert packed.identity() == encoder(tmp_path).identity()
    tiny = write_sentence_model(tmp_path / "tiny", WORDS)
    own = library.SentenceTransformer(str(tiny), device="cpu", local_files_only=True)
    np.testing.assert_allclose(encoder(tiny).encode(TEXTS), own.encode(TEXTS), atol=1e-5)
    own.save(str(tmp_path / "newer"))  # the layout of today's version
    np.testing.assert_allclose(encoder(tmp_path / "newer").encode(TEXTS), own.encode(TEXTS), atol=1e-5)
