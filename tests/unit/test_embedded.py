"""Which model runs where none is named."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from llamakit import Session, embedded
from llamakit.chat.prompt import encode_messages
from llamakit.cli import llamakit
from llamakit.errors import UsageError
from llamakit.testing.scripted_model import scripted_model


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A model in the embedded one's place, in a folder without settings."""
    path = scripted_model(tmp_path / "model.gguf", "All is well.")
    monkeypatch.setattr(embedded, "FILE", path)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_named_model_comes_first(small):
    path, notice = embedded.named_or_embedded("other.gguf")
    assert (str(path), notice) == ("other.gguf", "")
    assert embedded.named_or_embedded("") == (small, embedded.NOTICE)


def test_without_one_a_name_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "FILE", tmp_path / "missing.gguf")
    with pytest.raises(UsageError, match="name a GGUF file with -m FILE"):
        embedded.named_or_embedded("")


def test_generate_answers_without_m_and_says_how_to_name_one(small):
    done = CliRunner().invoke(llamakit, ["generate", "-p", "Say", "--temp", "0", "--no-timings"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == "All is well."
    assert done.stderr.count(embedded.NOTICE) == 1
    quiet = CliRunner().invoke(llamakit, ["generate", "-q", "-p", "Say", "--temp", "0"])
    assert quiet.stderr == ""


def test_the_server_offers_it_under_its_own_name(small, capsys):
    from llamakit.plugins.frontends.rest import startup
    from llamakit.plugins.frontends.rest.options import ServeOptions

    from llamakit.config import Config, make_schema

    config = Config(make_schema(None))
    assert startup.models_of(config, ServeOptions()) == {startup.EMBEDDED: small}
    assert capsys.readouterr().err.count(embedded.NOTICE) == 1
    assert startup.models_of(config, ServeOptions(models={"a": str(small)})) == {"a": small}
    assert capsys.readouterr().err == ""


def test_tokenize_uses_its_vocabulary(small):
    done = CliRunner().invoke(llamakit, ["tokenize", "All is well."])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("flags", "messages"),
    [((), True), (("--no-chat",), False), (("-m", "FILE"), False), (("-m", "FILE", "--chat"), True)],
)
def test_a_prompt_is_a_message_to_the_embedded_model_only(small, monkeypatch, flags, messages):
    sent = []
    request = Session.request
    monkeypatch.setattr(
        Session, "request", lambda self, prompt, **more: sent.append(prompt) or request(self, prompt, **more)
    )
    named = [str(small) if flag == "FILE" else flag for flag in flags]
    done = CliRunner().invoke(llamakit, ["generate", "-q", "-p", "Say", "--temp", "0", *named])
    assert done.exit_code == 0, done.output
    assert isinstance(sent[0], list) == messages
    if messages:
        with Session(small) as session:
            assert sent[0] == encode_messages(
                session.chat_template, session.tokenizer, [{"role": "user", "content": "Say"}]
            )
