"""Providers, budgets and the chain from a file, from JSON and from the documents' environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.cli.runtimes import Tried, check, lines
from services.common.errors import BadInput
from services.common.settings import Settings
from services.sync.routing.fleet import default_chain, make_runtimes
from services.sync.routing.providers import Budget, configured
from services.sync.runtimes.local import NoShelf
from services.sync.runtimes.openai import DEFAULT_BASE_URL

TOML = """
chain = ["openai:gpt", "openai", "cached", "markov", "canned"]

[[provider]]
name = "gpt"
api_key_env = "MY_KEY"
weight = 3
max_tokens = 80
requests_per_minute = 500

[[provider]]
name = "local"
base_url = "http://127.0.0.1:11434/v1"
model = "llama3.1"
context_tokens = 4096
temperature = 0.2
vision = true

[budget.main]
daily_tokens = 1000
"""


def settings(**fields: Any) -> Settings:
    return Settings(**({"data": ":memory:", "letta_base_url": "", "openai_base_url": ""} | fields))


def test_a_file_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(TOML)
    found = configured(settings(providers=str(path), daily_usd=2.5), {"MY_KEY": "sk-1"})
    gpt, local = found.providers
    assert (gpt.name, gpt.base_url, gpt.api_key, gpt.weight, gpt.max_tokens) == (
        "openai:gpt", DEFAULT_BASE_URL, "sk-1", 3.0, 80,
    )  # fmt: skip
    assert "sk-1" not in repr(gpt)
    assert gpt.cost(1_000_000, 1_000_000) == pytest.approx(0.75)
    assert gpt.quota().ready_at(1, 0.0) == 0.0
    assert gpt.quota().requests.burst == 500
    assert (local.model, local.context_tokens, local.temperature, local.vision) == ("llama3.1", 4096, 0.2, True)
    assert local.cost(10**9, 10**9) == 0.0
    assert found.budgets == {"main": Budget(1000), "*": Budget(0, 2.5)}
    assert default_chain(settings(), found) == ("openai:gpt", "openai", "cached", "markov", "canned")
    # The environment has the last word.
    assert default_chain(settings(runtimes="openai:local,offline"), found) == ("openai:local", "offline")
    runtimes = make_runtimes(settings(), found, NoShelf())
    assert list(runtimes) == ["openai:gpt", "openai:local", "offline"]


def test_json_does_too(tmp_path: Path) -> None:
    text = '{"provider": [{"name": "a", "base_url": "http://127.0.0.1:1/v1", "price_prompt": 2}]}'
    (tmp_path / "p.json").write_text(text)
    for setting in (text, str(tmp_path / "p.json")):
        (one,) = configured(settings(providers=setting), {}).providers
        assert (one.name, one.price_prompt) == ("openai:a", 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("chain = [", "not TOML"),
        ("[[provider]]\nbase_url = 'http://x'", "name"),
        ("[[provider]]\nname = 'a b'", "1 to 32"),
        ("[[provider]]\nname = 'a'\nbase_url = 'x:1'", "http://"),
        ("[[provider]]\nname = 'a'\nwieght = 1", "wieght"),
        ("[[provider]]\nname = 'a'\nweight = -1", "negative"),
        ("[[provider]]\nname = 'a'\nweight = nan", "negative"),
        ("[[provider]]\nname = 'a'\napi_key_env = 'NO_SUCH_KEY'", "NO_SUCH_KEY"),
        ("[[provider]]\nname = 'a'\napi_key_file = '/no/such/file'", "api_key_file"),
        ("[[provider]]\nname = 'a'\n[[provider]]\nname = 'a'", "twice"),
        ("[budget.main]\ndaily_tokens = 'many'", "daily_tokens"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        configured(settings(providers=str(path)), {})
    assert says in caught.value.message


def test_a_file_that_is_not_there_is_said_too() -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        configured(settings(providers="/no/such/file.toml"), {})


def test_the_variables_of_the_documents_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OPENAI_API_KEY": "sk-doc", "LLM_PROVIDER": "openai", "LLM_MODEL": "gpt-4", "LLM_MAX_TOKENS": "120",
        "LLM_TEMPERATURE": "0.5", "CONTEXT_WINDOW_SIZE": "8",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    read = settings()
    assert (read.max_tokens, read.temperature, read.context_messages) == (120, 0.5, 8)
    found = configured(read)
    (one,) = found.providers
    assert (one.name, one.base_url, one.api_key, one.model) == ("openai", DEFAULT_BASE_URL, "sk-doc", "gpt-4")
    assert default_chain(read, found) == ("openai", "cached", "markov", "offline")


def test_a_key_in_the_environment_alone_sends_nothing_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-doc")
    found = configured(settings())
    assert found.providers == ()
    assert default_chain(settings(), found) == ("offline",)


def test_defaults_are_those_of_the_documents() -> None:
    read = settings()
    assert (read.max_tokens, read.temperature, read.context_messages) == (150, 0.7, 10)
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        configured(settings(llm_provider="openai"))
    with pytest.raises(BadInput, match="unknown runtime 'claude'"):
        default_chain(settings(llm_provider="claude"), configured(settings()))


@pytest.mark.real_time
async def test_check_says_what_answers_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert await check(settings()) == 0
    said = capsys.readouterr().out
    assert "Chain: offline" in said
    assert "No model is configured" in said
    dead = '{"chain": ["openai:dead", "canned"], "provider": [{"name": "dead", "base_url": "http://127.0.0.1:9/v1"}]}'
    assert await check(settings(providers=dead)) == 1
    said = capsys.readouterr().out
    assert "openai:dead" in said
    assert "FAILED" in said
    assert "connection refused" in said
    assert "not in the chain" in said


def test_what_is_printed_of_a_runtime() -> None:
    one = Tried("openai", "", True, 3.0, 410.0, 900.0, "gpt-4o-mini", does=["text", "usage"], lacks=["no price is set"])
    assert lines(one) == [
        "openai           ok      check 3 ms, first words 410 ms, whole turn 900 ms",
        "                 model gpt-4o-mini; gives text, usage",
        "                 missing: no price is set",
    ]
