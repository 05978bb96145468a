"""Passwords in addresses and the user's home: what is shown, kept and logged does not have them."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tests.mlflow_store import Server, only_run
from tests.saved_runs import SMALL

from medretrieval import compose, private, run
from medretrieval.errors import UserError, first_line
from medretrieval.private import HIDDEN, each, hide, hide_word, real, redacted, same, shareable
from medretrieval.track.mlflow.later import log_later

SCHEMES = st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "mssql+pyodbc", "ftp", "HTTPS"])
RAW = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/?#@\"<>:,'[]\\ "))
USERS = RAW.filter(bool)
PASSWORDS = st.one_of(
    st.text(min_size=1).map(lambda text: quote(text, safe="")), RAW.filter(bool),
    st.text("abc@:!$&()*+;=~^%9", min_size=1),
)  # fmt: skip
ENDS = st.sampled_from(["", ":5000", ":5000/", "/mlflow", "/a@b", ":1/x/y?z=1", "/db?ssl=true#x"])
SECRET = "S3cretOfTests"


@st.composite
def addresses(draw):
    """An address with a user, perhaps a password, and what in it is secret."""
    user, password = draw(USERS), draw(st.none() | PASSWORDS)
    secret = user if password is None else f"{user}:{password}"
    return draw(SCHEMES), secret, f"ml.example.org{draw(ENDS)}"


@given(
    addresses(),
    st.sampled_from(["{}", "MLflow at {} is away", '{{"uri":"{}","b":1}}', "- x: {}\n- y", "<{}>"]),
)
@example(("postgresql", "ann:a/b", "ml.example.org/db"), "see {}")
@example(("https", "ann:with space", "ml.example.org/db"), "{}")
def test_no_secret_of_an_address_is_left_and_the_rest_stays(parts, around):
    scheme, secret, host = parts
    text = around.format(f"{scheme}://{secret}@{host}")
    assert redacted(text) == around.format(f"{scheme}://{HIDDEN}@{host}")
    assert redacted(redacted(text)) == redacted(text)
    for line in (str(UserError(text)), first_line(ValueError(text))):
        assert f"{secret}@" not in line


@given(
    st.sampled_from(["password", "access_token", "X-Api-Key", "sslpassword", "client.secret", "TOKEN"]), RAW
)
def test_no_secret_of_a_query_is_left(key, value):
    assume(value and "&" not in value)
    shown = redacted(f"https://h.org/x?a=1&{key}={value}&b=2#c")
    assert shown == f"https://h.org/x?a=1&{key}={HIDDEN}&b=2#c"


@given(
    st.sampled_from(["http://h.org", "http://h.org:5000/a@b", "sqlite:////home/a@b/c:d@e.db", "file:///x@y"]),
    st.text(st.characters(exclude_characters="@"), max_size=20),
)
def test_what_has_no_secret_stays_as_it_is(address, rest):
    for text in (address, rest, f"{rest} {address}", "mail ann@example.org, a:b@c"):
        assert redacted(text) == text


@given(addresses())
def test_an_address_that_was_hidden_is_found_again_and_no_other(parts):
    scheme, secret, host = parts
    whole = f"{scheme}://{secret}@{host}"
    os.environ.pop(private.MEMORY, None)
    shown = f"{scheme}://{HIDDEN}@{host}"
    assert real(shown) is None
    assert hide(whole) == shown == hide_word(f"tracking.uri='{whole}'").split("'")[1]
    assert real(shown) == whole
    assert real(f"{scheme}://{HIDDEN}@other.org") is None
    assert same(shown, whole)
    assert same(f"{scheme}://{host}", whole)
    assert not same(f"{scheme}://x{host}", whole)


def test_the_environment_knows_it_and_so_does_a_store_that_needs_none(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:pw@h.org/x")
    assert real("http://***@h.org/x") == "http://ann:pw@h.org/x"
    assert real("http://***@h.org/y") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h.org/x")  # with MLFLOW_TRACKING_PASSWORD
    assert real("http://***@h.org/x") == "http://h.org/x"
    assert real("sqlite:///~/a.db") == f"sqlite:///{Path.home()}/a.db"


@given(
    st.sampled_from(["/home/ann", "/Users/b.c", "/root"]),
    st.sampled_from(["", "/x", "/x.y/z", ": gone", "'"]),
)
def test_home_becomes_a_tilde_where_it_begins_a_path(home, rest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", home)
        assert shareable(f"at {home}{rest}") == f"at ~{rest}"
        assert shareable(f"sqlite:///{home}/m.db") == "sqlite:///~/m.db"
        for other in (f"{home}2{rest}", f"/mnt{home}.old", f"..{home}/x"):
            assert shareable(other).replace("~", home) == other
            assert "~" not in shareable(other) or other.startswith("/mnt")


def test_every_text_of_a_tree_is_changed_and_nothing_else():
    tree = {"a": ["http://u:p@h", 1, None], "b": {"c": True, "d": ("x", "https://t@h")}}
    assert each(tree) == {"a": ["http://***@h", 1, None], "b": {"c": True, "d": ["x", "https://***@h"]}}


def test_a_log_and_what_ends_a_process_are_clean():
    code = (
        "import logging, sys\nfrom medretrieval import private\nprivate.watch(); private.watch()\n"
        "logging.basicConfig()\nlogging.warning('at %s', 'http://u:pw1@h')\n"
        "try:\n    raise OSError('http://u:pw2@h')\nexcept OSError:\n    logging.exception('why')\n"
        "logging.warning('%d', 'x')\nlogging.warning('%s stays', ['a'])\nraise ValueError('http://u:pw3@h')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("http://***@h") >= 3
    assert "['a'] stays" in done.stderr
    assert "pw" not in done.stderr.replace("'http://u:pw", "")


# Runs


def files_with(top, *secrets):
    """Files below a folder that hold one of some texts."""
    found = (path for path in Path(top).rglob("*") if path.is_file())
    return [path for path in found if any(secret.encode() in path.read_bytes() for secret in secrets)]


@pytest.fixture
def server():
    """A server that is MLflow's to the first question, and refuses it."""
    with Server("refuses") as there:
        yield there


def test_a_run_speaks_with_the_whole_address_and_keeps_none_of_it(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri(f"ann:{SECRET}"))
    places = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path / 'cache'}")
    folder = run(compose(*SMALL, *places, "encoder=pixels")).folder
    assert server.passwords == {f"ann:{SECRET}"}
    assert server.uri(HIDDEN) in (folder / "tracking.json").read_text()
    assert server.uri(HIDDEN) in (folder / "config.yaml").read_text()
    with pytest.raises(UserError, match="nothing is lost") as away:  # the environment has the password
        log_later([folder], None)
    assert server.uri(HIDDEN) in str(away.value)
    assert files_with(tmp_path, SECRET) == []
    assert SECRET not in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv(private.MEMORY)
    with pytest.raises(UserError, match="a run keeps no password; give the whole address in"):
        log_later([folder], None, everything=True)


@pytest.mark.parametrize(
    "words", [("tracking.uri={}",), ("-m", "tracking.uri={}"), ("--config-dir", "mine", "-m")]
)
def test_the_command_writes_and_prints_no_password(command, server, tmp_path, words):
    own = tmp_path / "mine" / "tracking"
    if "mine" in words:
        own.mkdir(parents=True)
        (own / "ours.yaml").write_text(f"defaults: [mlflow]\nuri: {server.uri(f'ann:{SECRET}')}\n")
        words = (*words, "tracking=ours")
    said = [word.format(server.uri(f"ann:{SECRET}")) for word in words]
    done = command(*said, *SMALL, "encoder=pixels", f"paths.cache={tmp_path / 'cache'}")
    assert done.returncode == 0, done.stderr
    assert server.passwords == {f"ann:{SECRET}"}
    assert SECRET not in done.stdout + done.stderr
    assert server.uri(HIDDEN) in done.stderr
    assert [path for path in files_with(tmp_path, SECRET) if own not in path.parents] == []
    assert files_with(tmp_path / "outputs", server.uri(HIDDEN))


def test_mlflow_and_a_report_get_no_home(database, tmp_path, monkeypatch, say):
    monkeypatch.setenv("HOME", str(tmp_path))
    places = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path / 'cache'}")
    cfg = compose(
        *SMALL, *places, f"tracking.uri={database}", "encoder=pixels", f"paths.data={tmp_path}/data"
    )
    folder = run(cfg).folder
    client, logged = only_run(database)
    assert logged.data.tags["folder"] == f"~{str(folder).removeprefix(str(tmp_path))}"
    said = [
        *logged.data.tags.values(),
        *logged.data.params.values(),
        logged.info.run_name,
        str(logged.inputs),
    ]
    assert [text for text in said if str(tmp_path) in text] == []
    aside = client.download_artifacts(logged.info.run_id, "", str(tmp_path.parent / f"{tmp_path.name}-aside"))
    assert files_with(aside, str(tmp_path)) == []
    assert "~/outputs" in (Path(aside) / "manifest.json").read_text()
    code, _, err = say("report", logged.info.run_id, f"uri={database}", "out=page.html")
    assert code == 0, err
    assert files_with(tmp_path, "Retrieval report") == [tmp_path / "page.html"]
    assert str(tmp_path) not in (tmp_path / "page.html").read_text()
    assert say("verify", logged.info.run_id, f"uri={database}")[0] == 0  # the folder is found again
