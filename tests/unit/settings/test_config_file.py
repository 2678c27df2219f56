"""The file of `--config`: what it says, and that a broken or hostile one is one clear line."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.config_file import (
    MAX_CONFIG_BYTES,
    CommandNames,
    ConfigFile,
    read_config,
)

NAMES = CommandNames(
    below={
        "run": CommandNames(frozenset({"window_seconds", "input_topics", "schema", "detach"})),
        "dlq": CommandNames(below={"replay": CommandNames(frozenset({"events_per_second"}))}),
        "schema": CommandNames(below={"show": CommandNames(frozenset({"json"}))}),
    }
)


def read(tmp_path: Path, text: str | bytes) -> ConfigFile:
    path = tmp_path / "my.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(str(path), NAMES)


def refusal(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(UsageError) as refused:
        read(tmp_path, text)
    message = str(refused.value)
    assert "my.yaml" in message
    assert "\n" not in message
    return message


def text_of(file: ConfigFile, command: tuple[str, ...], flag: str) -> object:
    value = file.value(command, flag)
    return None if value is None else value.texts if value.is_list else value.texts[0]


@pytest.mark.parametrize(
    "written", ["none", "no", "1e3", "012", "1:30", "2026-01-01", "0x1F", "-5", "true", ".dlq"]
)
def test_values_stay_as_they_are_written(tmp_path: Path, written: str) -> None:
    file = read(tmp_path, f"input_topics: {written}\n")
    assert text_of(file, ("run",), "input_topics") == written


@pytest.mark.parametrize("blank", ["", "null", "~", "''", "[]"])
def test_a_blank_value_counts_as_not_given(tmp_path: Path, blank: str) -> None:
    assert text_of(read(tmp_path, f"input_topics: {blank}"), ("run",), "input_topics") is None


def test_a_quoted_null_is_a_text(tmp_path: Path) -> None:
    assert text_of(read(tmp_path, "input_topics: 'null'"), ("run",), "input_topics") == "null"


def test_lists_and_their_line(tmp_path: Path) -> None:
    value = read(tmp_path, "# topics\ninput_topics:\n  - a\n  - b\n").value(
        ("run",), "input_topics"
    )
    assert value is not None
    assert value.texts == ("a", "b")
    assert value.where == f"{tmp_path}/my.yaml, line 2"


def test_what_stands_below_a_command_is_for_it_alone(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """
        events_per_second: 5
        schema: order.json
        dlq:
          replay:
            events_per_second: 100
        schema:
          show: {json: true}
        """,
    )
    assert text_of(file, ("dlq", "replay"), "events_per_second") == "100"
    assert text_of(file, ("produce",), "events_per_second") == "5"
    assert text_of(file, ("run",), "schema") == "order.json"
    assert text_of(file, ("schema", "show"), "json") == "true"
    assert text_of(file, ("run",), "json") is None


@pytest.mark.parametrize("empty", ["", "# nothing\n", "---\n", "run:\n", "\ufeff"])
def test_an_empty_file_says_nothing(tmp_path: Path, empty: str) -> None:
    file = read(tmp_path, empty)
    assert text_of(file, ("run",), "window_seconds") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "window_secs: 5",
            "line 1: window_secs is not a flag of any command; did you mean window_se",
        ),
        ("\n\n--window_seconds: 5", "line 3: --window_seconds is spelled differently here"),
        ("window-seconds: 5", "write window_seconds"),
        ("WINDOW_SECONDS: 5", "write window_seconds"),
        ("dlq:\n  window_seconds: 5", "line 2: window_seconds is not a flag of dlq"),
        ("run:\n  replay: 5", "line 2: replay is not a flag of run"),
        ("sasl.jaas.config: x", "sasl.jaas.config is not a flag of any command; Kafka client prop"),
        ("zzz: 5", "zzz is not a flag of any command; see `beam-pipeline COMMAND --help`"),
        ("run: 5", "line 1: run is a command; write its flags below it, indented"),
        ("window_seconds: {a: 1}", "window_seconds takes a value, not a mapping"),
        (
            "input_topics: [a, [b]]",
            "an item of the list is not a value; write input_topics: [A, B]",
        ),
        ("input_topics: [a, {b: c}]", "an item of the list is not a value"),
        ("input_topics: [a, ~]", "an item of the list is not a value"),
        ("window_seconds: 5\nwindow_seconds: 6", "line 2: window_seconds is given twice"),
        ("run: {detach: true}\nrun: {}", "line 2: run is given twice"),
        ("[a, b]: 1", "a key is the name of a flag"),
        ("- a\n- b", "has no keys"),
        ("just words", "has no keys"),
        ("a: 1\n---\nb: 2", "not YAML: line 2"),
        ("window_seconds: 5\n  input_topics: a", "not YAML: line 2, column 15: "),
        ("window_seconds: [1, 2", "not YAML: line 1, column 22: "),
        ("input_topics: \x00", "not YAML: "),
        ("input_topics: @a", "not YAML: line 1, column 15: "),
        (b"input_topics: caf\xe9", "not UTF-8"),
        ("input_topics: !!python/object/apply:os.system ['true']", "has the tag"),
        ("input_topics: !!python/name:os.system x", "has the tag tag:yaml.org,2002:python/name"),
        ("input_topics: !secret x", "has the tag !secret"),
        ("<<: {window_seconds: 5}", "<< is not a flag of any command"),
    ],
)
def test_a_wrong_file_is_one_line_with_the_remedy(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "sasl.password: hunter2-secret",
        "kafka_config: {sasl.password: hunter2-secret}",
        "input_topics: [a, {password: hunter2-secret}]",
        "input_topics: *hunter2-secret",
        "input_topics: &hunter2-secret a\nb: 'hunter2-secret",
        "password: hunter2-secret\n  b: hunter2-secret",
        "window_seconds: {a: hunter2-secret}",
        "hunter2-secret",
        "- hunter2-secret",
    ],
)
def test_what_a_wrong_file_says_is_not_repeated(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in refusal(tmp_path, text)


def test_a_document_that_would_grow_is_read_at_once(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x]"]
    levels += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    started = time.monotonic()
    refusal(tmp_path, "\n".join(levels))
    refusal(tmp_path, "run: &r\n  window_seconds: *r\n")
    refusal(tmp_path, "dlq: &d\n  replay: *d\n")
    assert time.monotonic() - started < 5


def test_deep_and_large_files_are_refused(tmp_path: Path) -> None:
    assert "nested too deep" in refusal(tmp_path, "input_topics: " + "[" * 100_000)
    assert "has more than" in refusal(tmp_path, "#" * (MAX_CONFIG_BYTES + 1))


def test_a_key_of_a_megabyte_is_cut(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, "? " + "k" * 100_000 + "\n: 1")) < 400


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=reason) as refused:
            read_config(str(path), NAMES)
        assert str(refused.value).startswith(f"--config={path}: ")
    with pytest.raises(UsageError, match="give a readable YAML file"):
        read_config("a\0b", NAMES)


def test_a_pipe_is_a_file_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("window_seconds: 7\n",))
    writer.start()
    file = read_config(str(pipe), NAMES)
    writer.join()
    assert text_of(file, ("run",), "window_seconds") == "7"


@given(text=st.one_of(st.binary(max_size=300), st.text(alphabet="ab:-[]{}&*!|>'\"#%@`\n ,?~<0.")))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: bytes | str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused = ""
    try:
        read_config(str(path), NAMES)
    except UsageError as error:
        refused = str(error)
    assert not refused or str(path) in refused
