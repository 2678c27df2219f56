"""Where a flag's value comes from, that it goes through the flag's own converter, what is shown."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.cli import command_parsers, main
from beam_pipeline.errors import UsageError
from beam_pipeline.settings.flags import topic_names
from beam_pipeline.settings.masking import masked
from beam_pipeline.settings.printed import settings_text
from beam_pipeline.settings.sources import (
    NOT_FLAGS,
    Configured,
    Setting,
    add_config_flags,
    parse,
    read_sources,
    variable_of,
    without_configuration,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests."""
    for variable in list(os.environ):
        if variable.startswith("BEAM_PIPELINE_") and variable not in NOT_FLAGS:
            monkeypatch.delenv(variable)


def small_parser() -> argparse.ArgumentParser:
    """Commands with a flag of each kind."""
    parser = argparse.ArgumentParser(prog="prog")
    commands = parser.add_subparsers(dest="command", required=True)
    land = commands.add_parser("land", allow_abbrev=False)
    land.add_argument("--topics", type=topic_names, required=True, metavar="TOPIC[,…]")
    land.add_argument("--seconds", type=int, default=60, help="(default: %(default)s)")
    land.add_argument("--ratio", type=float)
    land.add_argument("--codec", choices=("zstd", "none"), default="zstd")
    land.add_argument("--step", action="append", metavar="STEP")
    land.add_argument("--dry_run", action="store_true")
    land.add_argument("--directory", type=Path, default="data")
    land.add_argument("--api_token")
    look = commands.add_parser("look", allow_abbrev=False)
    look.add_argument("path")
    look.add_argument("--depth", type=int, default=1)
    for command in (land, look):
        add_config_flags(command)
    return parser


def parsed(
    tmp_path: Path, words: list[str], file: str = "", **environment: str
) -> tuple[argparse.Namespace, dict[str, str]]:
    """What the flags are, and where from."""
    path = tmp_path / "my.yaml"
    path.write_text(file)
    variables = {variable_of(name): text for name, text in environment.items()}
    parser = small_parser()
    words = [words[0], f"--config={path}", *words[1:]]
    configured = parse(parser, words, read_sources(parser, words, variables))
    return configured.args, {one.name: one.source for one in configured.settings}


def test_flags_win_over_the_environment_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = "topics: [a, b]\nseconds: 1\nratio: 1\ncodec: none\n"
    args, sources = parsed(
        tmp_path, ["land", "--seconds=3"], file, seconds="2", ratio="0.5", directory="elsewhere"
    )
    assert (args.topics, args.seconds, args.ratio, args.codec) == (["a", "b"], 3, 0.5, "none")
    assert args.directory == Path("elsewhere")
    assert sources == {
        "topics": f"file {tmp_path}/my.yaml, line 1",
        "seconds": "flag",
        "ratio": "environment BEAM_PIPELINE_RATIO",
        "codec": f"file {tmp_path}/my.yaml, line 4",
        "step": "default",
        "dry_run": "default",
        "directory": "environment BEAM_PIPELINE_DIRECTORY",
        "api_token": "default",
    }
    assert args.given_flags == {"seconds"}


def test_a_list_from_one_source_is_not_added_to_another(tmp_path: Path) -> None:
    file = "topics: a\nstep: [x, y]"
    assert parsed(tmp_path, ["land"], file)[0].step == ["x", "y"]
    assert parsed(tmp_path, ["land"], "topics: a\nstep: x")[0].step == ["x"]
    assert parsed(tmp_path, ["land"], file, step="p,q\n r \n")[0].step == ["p,q", "r"]
    assert parsed(tmp_path, ["land", "--step=z"], file, step="p")[0].step == ["z"]


@pytest.mark.parametrize("text", ["true", "True", "yes", "on", "1"])
@pytest.mark.parametrize("off", [False, True])
def test_switches(tmp_path: Path, text: str, off: bool) -> None:
    word = {"true": "false", "True": "FALSE", "yes": "no", "on": "off", "1": "0"}[text]
    file = f"topics: a\ndry_run: {word if off else text}"
    assert parsed(tmp_path, ["land"], file)[0].dry_run is not off
    assert parsed(tmp_path, ["land", "--dry_run"], file)[0].dry_run is True
    assert parsed(tmp_path, ["land", "--no_dry_run"], file)[0].dry_run is False
    assert parsed(tmp_path, ["land"], file, dry_run="false")[0].dry_run is False


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    assert parsed(tmp_path, ["land"], "topics: a\nseconds: 7", seconds="")[0].seconds == 7


def test_a_required_flag_may_come_from_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parsed(tmp_path, ["land"], topics="a,b")[0].topics == ["a", "b"]
    with pytest.raises(SystemExit) as ended:
        parsed(tmp_path, ["land"], "seconds: 1")
    assert ended.value.code == 2
    assert "required: --topics" in capsys.readouterr().err


def test_keys_of_other_commands_are_ignored(tmp_path: Path) -> None:
    file = "topics: a\ncodec: nonsense\ndepth: 3\n"
    assert parsed(tmp_path, ["look", "x"], file)[0].depth == 3


@pytest.mark.parametrize(
    ("file", "environment", "said"),
    [
        ("seconds: soon", {}, "my.yaml, line 1: seconds=soon: invalid int value: 'soon'"),
        ("seconds: 1.5", {}, "line 1: seconds=1.5: invalid int value: '1.5'"),
        ("seconds: true", {}, "line 1: seconds=true: invalid int value"),
        ("seconds: [1, 2]", {}, "line 1: seconds takes one value, not a list; write seconds: VAL"),
        ("codec: lzo", {}, "line 1: codec=lzo: invalid choice: 'lzo' (choose from "),
        ("dry_run: maybe", {}, "line 1: dry_run=maybe: this is a switch; write true or false"),
        ("dry_run: [true]", {}, "is a switch; write true or false"),
        ("topics: ' , '", {}, "give one name or more, separated by commas"),
        ("", {"seconds": "soon"}, "BEAM_PIPELINE_SECONDS: seconds=soon: invalid int value"),
        ("", {"codec": "-"}, "BEAM_PIPELINE_CODEC: codec=-: invalid choice"),
        ("", {"dry_run": "2"}, "BEAM_PIPELINE_DRY_RUN: dry_run=2: this is a switch"),
        ("ratio: many", {}, "see `prog land --help`"),
    ],
)
def test_a_wrong_value_names_where_it_stands(
    tmp_path: Path, file: str, environment: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        parsed(tmp_path, ["land"], file, **environment)
    assert said in str(refused.value)


def test_a_wrong_value_of_a_flag_that_is_given_does_not_matter(tmp_path: Path) -> None:
    assert parsed(tmp_path, ["land", "--topics=a", "--seconds=1"], "seconds: x")[0].seconds == 1


def test_help_comes_whatever_the_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(tmp_path, ["land", "--help"], "][")
    assert ended.value.code == 0
    assert "(default: 60)" in capsys.readouterr().out


def test_later_messages_say_where_a_value_is_from() -> None:
    settings = [Setting("seconds", 0, "file my.yaml, line 1"), Setting("ratio", 1, "flag")]
    told = Configured(argparse.Namespace(), settings).explained("--seconds=0: too few; --ratio=1")
    assert told == "--seconds=0: too few; --ratio=1 (seconds is from file my.yaml, line 1)"


@pytest.mark.parametrize("command", sorted(command_parsers()))
def test_every_flag_is_of_a_kind_that_can_be_configured(command: str) -> None:
    """Stores one value, repeats, or switches on; no name is that of another variable."""
    pending = [command_parsers()[command]]
    variables = set()
    while pending:
        for action in pending.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending.extend(action.choices.values())
            elif action.option_strings and action.help != argparse.SUPPRESS:
                assert action.nargs in (None, 0)
                assert isinstance(
                    action,
                    argparse._StoreAction
                    | argparse._StoreTrueAction
                    | argparse._AppendAction
                    | argparse._HelpAction,
                )
                variables |= {variable_of(name[2:]) for name in action.option_strings}
    assert not variables & NOT_FLAGS


# --- the choice between demo and run ---------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "environment", "words", "command"),
    [
        ("kafka_bootstrap_servers: h:1", {}, [], "run"),
        ("input_topics: [a]", {}, [], "run"),
        ("run: {input_topics: a}", {}, [], "run"),
        ("kafka_config: client.properties", {}, ["--window_seconds=5"], "run"),
        ("window_seconds: 5", {}, [], "demo"),
        ("reconcile: {input_topics: a}\nproduce: {kafka_bootstrap_servers: h:1}", {}, [], "demo"),
        ("input_topics: a", {}, ["demo"], "demo"),
        ("", {"kafka_bootstrap_servers": "h:1"}, [], "run"),
        ("", {"kafka_bootstrap_servers": ""}, [], "demo"),
        ("", {"output_dir": "x"}, [], "demo"),
        ("", {}, ["--until=caught_up"], "run"),
    ],
)
def test_demo_or_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    environment: dict[str, str],
    words: list[str],
    command: str,
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(file)
    for name, text in environment.items():
        monkeypatch.setenv(variable_of(name), text)
    for engine in ("prism", "flink"):
        monkeypatch.setenv(variable_of("engine"), engine)
        assert main([*words, f"--config={path}", "--print_config"]) == 0
        settings = yaml.safe_load(capsys.readouterr().out)
        assert settings["engine"] == engine
        assert ("demo_seconds" in settings) is (command == "demo")


def test_help_of_the_scripts_comes_whatever_the_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("][")
    with pytest.raises(SystemExit) as ended:
        main([f"--config={tmp_path / 'my.yaml'}", "--help"])
    assert ended.value.code == 0
    assert "Without a command it is the demo" in capsys.readouterr().out


# --- the command line itself -----------------------------------------------------------------


def test_a_file_named_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.yaml"
    monkeypatch.setenv("BEAM_PIPELINE_CONFIG", str(path))
    assert main(["run"]) == 2
    assert f"beam-pipeline: BEAM_PIPELINE_CONFIG={path}: No such file" in capsys.readouterr().err
    path.write_text("parallelism: 5\n")
    assert main(["run", "--print_config"]) == 0
    assert "parallelism: 5 " in capsys.readouterr().out
    (tmp_path / "flag.yaml").write_text("parallelism: 6\n")
    assert main(["run", "--print_config", "--config", str(tmp_path / "flag.yaml")]) == 0
    assert "parallelism: 6 " in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["dlq", "stats"], ["schema", "show", "x"], ["reconcile"], ["produce"], ["doctor"]]
)
def test_every_command_takes_it(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("json: true\nquiet: true\n")
    assert main([*command, f"--config={tmp_path / 'my.yaml'}", "--print_config"]) == 0
    switch = "quiet" if command == ["produce"] else "json"
    assert f"{switch}: true " in capsys.readouterr().out


def test_a_variable_that_is_nearly_one_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("WINDOWS_SECONDS", "CACHE", "SERVICE_HOST", "PORT_80_TCP_ADDR"):
        monkeypatch.setenv(f"BEAM_PIPELINE_{name}", "1")
    assert main(["run", "--print_config"]) == 0
    assert capsys.readouterr().err == (
        "beam-pipeline: BEAM_PIPELINE_WINDOWS_SECONDS sets no flag; "
        "did you mean BEAM_PIPELINE_WINDOW_SECONDS?\n"
    )


def test_what_is_meant_for_run_does_not_stop_produce(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text(
        "kafka_bootstrap_servers: h:1\nschema: s.json\nevent_time_field: at\nseed: 1\ntopic: t\n"
    )
    words = ["produce", f"--config={tmp_path / 'my.yaml'}", "--input=missing.jsonl"]
    assert main(words) == 2
    assert "--input=missing.jsonl" in capsys.readouterr().err


def test_a_command_started_by_another_is_not_configured() -> None:
    producer = command_parsers()["produce"]
    undone = without_configuration(producer)
    assert undone.items() >= {"BEAM_PIPELINE_SEED": "", "BEAM_PIPELINE_CONFIG": ""}.items()
    assert not NOT_FLAGS & undone.keys()
    words = ["produce", "--topic=t"]
    parser = argparse.ArgumentParser()
    below = parser.add_subparsers()
    below.add_parser("produce", parents=[producer], add_help=False)
    environment = {"BEAM_PIPELINE_SEED": "7", "BEAM_PIPELINE_CONFIG": "missing.yaml"}
    sources = read_sources(parser, words, {**environment, **undone})
    assert parse(parser, words, sources).args.seed is None


# --- what is shown ---------------------------------------------------------------------------

SECRET = "hunter2-!x"


@pytest.mark.parametrize(
    "text",
    [
        f"user:{SECRET}@broker:9092",
        f"h:1,user:{SECRET}@broker:9092",
        f"https://user:{SECRET}@host/path",
        f"s3://bucket/path?secret_access_key={SECRET}",
        f'required username="u" password="{SECRET}";',
        f"sasl.password: {SECRET}",
    ],
)
def test_secrets_are_masked_whatever_flag_they_are_put_into(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "hunter2" not in masked("savepoint_dir", text)
    for words in (["run", f"--kafka_bootstrap_servers={text}"], ["run", f"--input_topics={text}"]):
        assert main([*words, "--print_config"]) == 0
    (tmp_path / "my.yaml").write_text(f"output_dir: '{text}'\nwindow_seconds: '{text}'\n")
    assert main(["run", f"--config={tmp_path / 'my.yaml'}"]) == 2
    printed = capsys.readouterr()
    assert "***" in printed.out
    assert "***" in printed.err
    assert "hunter2" not in printed.out + printed.err


@pytest.mark.parametrize("shown", ["broker:9092", "s3://bucket/a@b", "a,b", "data/x:y", "[::1]:9"])
def test_what_is_no_secret_is_shown(shown: str) -> None:
    assert masked("kafka_bootstrap_servers", shown) == shown


def test_a_flag_that_is_a_secret_by_its_name_is_masked(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(f"api_token: {SECRET}\ntopics: a\n")
    parser = small_parser()
    words = ["land", f"--config={path}"]
    configured = parse(parser, words, read_sources(parser, words, {}))
    assert configured.args.api_token == SECRET
    assert "hunter2" not in settings_text(configured.settings)
    assert re.search(r'^api_token: "\*\*\*" ', settings_text(configured.settings), re.M)


def test_the_file_of_client_properties_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    properties = tmp_path / "client.properties"
    properties.write_text(
        f"sasl.mechanism=PLAIN\nsasl.username=u\nsasl.password={SECRET}\nbootstrap.servers=h:1\n"
    )
    (tmp_path / "my.yaml").write_text(f"kafka_config: {properties}\n")
    words = ["run", f"--config={tmp_path / 'my.yaml'}", "--print_config"]
    assert main(words) == 0
    # Given by mistake as the configuration itself.
    assert main(["run", f"--config={properties}"]) == 2
    printed = capsys.readouterr()
    assert f"kafka_config: {properties} " in printed.out
    assert "hunter2" not in printed.out + printed.err


def test_control_characters_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.yaml"
    for text in ('"\\e[2Jx": 1', 'window_seconds: "\\e[2J"', "? |\n  two\n  lines\n: 1"):
        path.write_text(text)
        assert main(["run", f"--config={path}"]) == 2
        printed = capsys.readouterr().err
        assert "\x1b" not in printed
        assert printed.count("\n") == 1
    path.write_text('output_dir: "\\e[2J\\u202e"')
    assert main(["run", f"--config={path}", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert not {"\x1b", "\u202e"} & set(printed)
    assert yaml.safe_load(printed)["output_dir"] == "\x1b[2J\u202e"


@given(
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1),
    )
)
def test_what_is_printed_is_yaml_of_the_same(value: object) -> None:
    printed = settings_text([Setting("transform", value, "default")])
    assert len(printed.splitlines()) == 1
    node = yaml.compose(printed, Loader=yaml.SafeLoader).value[0][1]
    if isinstance(value, list):
        assert [masked("transform", one) for one in value] == [item.value for item in node.value]
    elif isinstance(value, bool) or value is None:
        assert yaml.safe_load(printed) == {"transform": value}
    elif isinstance(value, float):
        assert float(node.value) == value
    else:
        assert node.value == masked("transform", str(value))


@pytest.mark.parametrize("words", [[], ["--config"], ["--", "--runner=x"]])
def test_any_number_of_words_may_stand_there(words: list[str]) -> None:
    environment = {"BEAM_PIPELINE_SEED": "7"}
    assert read_sources(small_parser(), words, environment).environment == environment
