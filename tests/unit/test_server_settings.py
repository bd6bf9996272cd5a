"""The settings of a server: every one a flag and an environment variable, and every value checked."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gptwo.cli import serve
from gptwo.cli.commands import program
from gptwo.errors import InvalidRequestError
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server import process
from gptwo.server.schemas import CompletionRequest
from gptwo.server.settings import ServerSettings

FIELDS = {field.name: field for field in dataclasses.fields(ServerSettings)}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """What `gptwo serve` would have served."""
    found: list[ServerSettings] = []
    monkeypatch.setattr(process, "serve", lambda settings, **_: found.append(settings))
    for name in FIELDS:
        monkeypatch.delenv(f"GPTWO_{name.upper()}", raising=False)
    return found


def command(*arguments: str, environment: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(program, ["serve", *arguments], env=environment)


def test_every_setting_has_a_flag_and_an_environment_variable() -> None:
    options = {option.name: option for option in serve.command.params if isinstance(option, click.Option)}
    assert {*options} == {*FIELDS}
    assert all(option.envvar == f"GPTWO_{name.upper()}" for name, option in options.items())


def test_the_flag_wins_over_the_environment(served: list[ServerSettings]) -> None:
    environment = {
        "GPTWO_PORT": "9000",
        "GPTWO_MAX_QUEUE": "7",
        "GPTWO_PLAYGROUND": "false",
        "GPTWO_LOG_PROMPTS": "1",
        "GPTWO_SERVED_MODEL_NAME": "a b",
        "GPTWO_MODEL": "from-the-environment",
        "GPTWO_MAX_WAIT": "none",
    }
    assert command("--port", "9001", environment=environment).exit_code == 0
    assert served == [
        ServerSettings(
            port=9001,
            max_queue=7,
            playground=False,
            log_prompts=True,
            served_model_name=("a", "b"),
            model="from-the-environment",
            max_wait=None,
        )
    ]
    assert served[0].model_names == ("a", "b")


def test_the_model_may_stand_alone(served: list[ServerSettings]) -> None:
    assert command("some/model", "--weights", "int8", environment={"GPTWO_MODEL": "other"}).exit_code == 0
    assert served == [ServerSettings(model="some/model", weights="int8")]
    assert served[0].model_options()["name"] == "some/model"
    assert command("some/model", "--model", "other").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "port is 70000"),
        (["--port", "high"], "not an integer"),
        (["--max-queue", "0"], "max_queue is 0"),
        (["--drain-timeout", "-1"], "drain_timeout"),
        (["--max-wait", "nan"], "max_wait"),
        (["--log-format", "xml"], "xml"),
        (["--root-path", "gpt"], "begins with /"),
        (["--max-body", "1"], "max_body is 1"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
    ids=str,
)
def test_a_wrong_flag_is_wrong_usage(served: list[ServerSettings], arguments: list[str], said: str) -> None:
    outcome = command(*arguments)
    assert outcome.exit_code == 2
    assert said in outcome.output
    assert served == []


def test_a_path_that_is_not_there_is_told_before_the_server_listens(served: list[ServerSettings]) -> None:
    outcome = command("./no-such-model")
    assert "no such file or directory: './no-such-model'" in str(outcome.exception)
    assert served == []
    assert command("owner/only-on-the-hub").exit_code == 0  # which is asked while the server says that it loads
    assert served[0].model == "owner/only-on-the-hub"


def test_a_wrong_variable_is_wrong_usage_too(served: list[ServerSettings]) -> None:
    outcome = command(environment={"GPTWO_PORT": "high"})
    assert outcome.exit_code == 2
    assert "high" in outcome.output


def test_a_misspelt_variable_is_told(served: list[ServerSettings]) -> None:
    outcome = command(environment={"GPTWO_MODLE": "x", "GPTWO_MAX_QUE": "3", "GPTWO_OF_ANOTHER_PROGRAM": "1"})
    assert outcome.exit_code == 0
    assert [line.partition("sets nothing; ")[2] for line in outcome.output.splitlines()] == [
        "did you mean GPTWO_MAX_QUEUE?",
        "did you mean GPTWO_MODEL?",
    ]


def test_settings_can_be_handed_to_another_process() -> None:
    settings = ServerSettings(port=0, cors_origins=["https://a.example"])
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301  # our own bytes
    with pytest.raises(InvalidRequestError, match="did you mean 'port'"):
        ServerSettings(prot=1)  # type: ignore[call-arg]


# ---- the parameters of a request have their names and defaults from one place


def test_every_parameter_of_sampling_and_of_beams_can_be_asked_for() -> None:
    fields = CompletionRequest.model_fields
    renamed = {"num_beams", "num_return_sequences"}  # best_of and n
    assert {*SamplingParams.field_help()} - {*fields} == set()
    assert {*BeamParams.field_help()} - {*fields} == renamed


@pytest.mark.parametrize("name", sorted(set(SamplingParams.field_help())))
def test_the_described_ranges_are_those_that_are_checked(name: str) -> None:
    schema = CompletionRequest.model_json_schema()["properties"][name]
    default = getattr(SamplingParams, name)
    assert schema["description"]
    assert schema.get("default") == (list(default) if isinstance(default, tuple) else default)
    room = {"max_tokens": 2**31 - 1} if name == "min_tokens" else {"best_of": 128} if name == "n" else {}
    for bound, beyond in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            SamplingParams(**{**room, name: schema[bound]})
            with pytest.raises(InvalidRequestError):
                SamplingParams(**{**room, name: schema[bound] + beyond})


def test_the_documentation_names_what_there_is() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    others = re.findall(r"`gptwo (?!serve\b)([a-z]+)([^`]*)`", text)
    for name, rest in others:
        command = program.get_command(click.Context(program), name)
        assert command is not None
        assert {*re.findall(r"--[a-z][a-z-]+", rest)} <= flags(command)
    of_serve = {*re.findall(r"--[a-z][a-z-]+", re.sub(r"`gptwo (?!serve\b)[^`]*`", "", text))}
    assert of_serve <= flags(serve.command)
    assert {f"--{name.replace('_', '-')}" for name in serve.SECTIONS["Limits"]} <= of_serve


def flags(command: click.Command) -> set[str]:
    return {name for option in command.params for name in option.opts} | {"--help"}
