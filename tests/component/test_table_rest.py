"""The committer on a real REST catalog: kills, two at once, requests that are sent twice."""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pyarrow.fs as pafs
import pytest
import requests
import table_kill_child
from event_landings import EXTREMES, LATER, Landing, records
from output_trees import OutputTree
from rest_catalogs import (
    ACCESS_KEY,
    LANDING_BUCKET,
    SECRET_KEY,
    TABLE_BUCKET,
    RestCatalogServer,
    start_rest_catalog,
)
from table_killer import Killer, Lander
from table_readers import DuckDB, Reader
from table_trees import (
    check_snapshots,
    committed,
    compacted,
    job_for,
    orders,
    paths_of,
    rows_of,
    table_of,
)

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.settings.table import TableJob, TableSettings
from beam_pipeline.tables.committer import Committer

LETTERS = "lake.orders__dead_letters"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestCatalogServer]:
    try:
        server = start_rest_catalog(tmp_path_factory.mktemp("rest") / "seaweedfs")
    except EnvironmentFailure as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))
    yield server
    server.process.terminate()


@pytest.fixture
def catalog(server: RestCatalogServer, tmp_path: Path) -> Iterator[Path]:
    """The file of `--catalog`; the tables go at the end."""
    yield server.write_properties(tmp_path / "catalog.yaml")
    for name in ("lake.orders", LETTERS):
        if server.catalog().table_exists(name):
            server.catalog().drop_table(name)


def test_a_committer_that_is_killed(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(table_kill_child.__file__).parent))
    killer = Killer(Lander(tmp_path, random.Random(1)), catalog)
    killer.lander.land()
    killer.lander.land_letters()
    killer.commit(None)
    reached = set()
    for _ in range(2):
        for point in table_kill_child.REST_POINTS:
            killer.lander.land()
            killer.lander.land_letters()
            if killer.commit(point) == "killed":
                reached.add(point)
            killer.check()
    for _ in range(3):
        killer.lander.land()
        for child in [killer.start(), killer.start()]:
            killer.end(child)
        killer.check()
    killer.check_at_rest()
    assert killer.ends["failed"] == 0
    assert reached == table_kill_child.REST_POINTS.keys()
    assert killer.ends["killed"] >= 25


class _Resending(BaseHTTPRequestHandler):
    """A proxy that sends each commit twice and gives the second answer, as some transports do."""

    upstream = ""
    second_answers: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self._pass_on("GET")

    def do_HEAD(self) -> None:
        self._pass_on("HEAD")

    def do_POST(self) -> None:
        self._pass_on("POST")

    def _pass_on(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        url = f"{type(self).upstream}{self.path}"
        answer = requests.request(method, url, data=body, headers=headers, timeout=30)
        if method == "POST" and urlsplit(self.path).path.rpartition("/")[0].endswith("/tables"):
            answer = requests.request(method, url, data=body, headers=headers, timeout=30)
            self.second_answers.append(answer.status_code)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def resending(server: RestCatalogServer) -> Iterator[str]:
    """The address of a proxy of the catalog."""
    _Resending.upstream = server.uri
    _Resending.second_answers.clear()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Resending)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{proxy.server_port}"
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def test_commits_that_are_sent_twice_land_once(
    server: RestCatalogServer, catalog: Path, resending: str, tmp_path: Path
) -> None:
    """The catalog calls the second one a conflict, although the first has landed."""
    tree = OutputTree(tmp_path / "tree")
    proxied = server.write_properties(tmp_path / "proxied.yaml", resending)
    committer = Committer(job_for(tree, proxied))
    for offset in range(3):
        tree.parquet(orders(offset))
        committer.round()
    assert _Resending.second_answers.count(409) >= 3
    compacted(committer)
    assert _Resending.second_answers.count(409) >= 4
    committer = committed(job_for(tree, catalog))
    table = table_of(committer)
    check_snapshots(table)
    assert rows_of(table) == orders(0, 1, 2)
    assert len(paths_of(table)) == 1


def store_of(server: RestCatalogServer) -> pafs.S3FileSystem:
    """The object store behind the catalog."""
    return pafs.S3FileSystem(
        endpoint_override=urlsplit(server.s3_endpoint).netloc,
        scheme="http",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        region="us-east-1",
    )


def stored_job(server: RestCatalogServer, catalog: Path, tree: OutputTree) -> TableJob:
    """Put the files of a tree into the bucket to land in; return the job for them."""
    prefix = f"{LANDING_BUCKET}/{uuid.uuid4().hex}"
    pafs.copy_files(str(tree.root), prefix, destination_filesystem=store_of(server))
    config = tree.root.with_name("store.yaml")
    config.write_text(f"endpoint: {server.s3_endpoint}\nregion: us-east-1\npath_style: true\n")
    return TableJob(
        TableSettings("lake.orders", str(catalog), 60.0),
        f"s3://{prefix}/output",
        f"s3://{prefix}/dead",
        storage_config=str(config),
    )


def test_files_in_an_object_store_are_referenced_where_they_are(
    server: RestCatalogServer, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    tree = OutputTree(tmp_path / "tree")
    landed = [tree.parquet(orders(0, 1)), tree.parquet(orders(2)), tree.letters(orders(3))]
    job = stored_job(server, catalog, tree)
    committer = committed(job)
    table = table_of(committer)
    assert rows_of(table) == orders(0, 1, 2)
    assert rows_of(table_of(committer, LETTERS)) == orders(3)
    places = {task.file.file_path for task in table.scan().plan_files()}
    assert places == {
        f"{job.output_dir}/{path.relative_to(tree.output_dir)}" for path in landed[:2]
    }
    (letters,) = table_of(committer, LETTERS).scan().plan_files()
    assert letters.file.file_path.startswith(f"s3://{TABLE_BUCKET}/lake/orders__dead_letters/data/")
    assert committed(job).progress.commits == 0

    done = compacted(committer)
    assert (done.files_before, done.files_after) == (2, 1)
    (merged,) = table_of(committer).scan().plan_files()
    assert merged.file.file_path.startswith(f"s3://{TABLE_BUCKET}/lake/orders/data/")
    assert rows_of(table_of(committer)) == orders(0, 1, 2)
    assert committed(job).progress.commits == 0

    rows, _ = committer.tables
    assert rows.table.expire(kept=1, kept_seconds=0.0) == 1
    with table.io.new_output(f"{rows.table.data_location}/left/over.parquet").create() as output:
        output.write(b"12345")
    assert rows.table.sweep() == 0
    unused = {file.uri: file.size_bytes for file in rows.table.unused_files(grace_seconds=-60)}
    assert unused[f"{rows.table.data_location}/left/over.parquet"] == 5
    assert rows.table.sweep(grace_seconds=-60) == len(unused) > 1
    assert rows.table.unused_files(grace_seconds=-60) == []
    check_snapshots(table_of(committer))
    assert rows_of(table_of(committer)) == orders(0, 1, 2)
    for path in landed:  # where they landed they stay
        key = f"{job.output_dir.removeprefix('s3://').removesuffix('output')}{path.relative_to(tree.root)}"
        (found,) = store_of(server).get_file_info([key])
        assert found.type is pafs.FileType.File


def test_readers_of_a_catalog(
    server: RestCatalogServer,
    catalog: Path,
    duckdb: DuckDB,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows are read as the files have them, through the catalog."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    landing = Landing(tmp_path / "tree")
    landing.land(records(0, EXTREMES))
    landing.land(records(100, EXTREMES | LATER), is_later=True)
    committer = committed(stored_job(server, catalog, landing.tree))
    endpoint = urlsplit(server.s3_endpoint).netloc
    attaching = replace(
        duckdb,
        statements=(
            f"CREATE SECRET store (TYPE s3, KEY_ID '{ACCESS_KEY}', SECRET '{SECRET_KEY}', "
            f"ENDPOINT '{endpoint}', REGION 'us-east-1', URL_STYLE 'path', USE_SSL false)",
            f"CREATE SECRET catalog (TYPE iceberg, CLIENT_ID '{ACCESS_KEY}', "
            f"CLIENT_SECRET '{SECRET_KEY}', OAUTH2_SERVER_URI '{server.uri}/v1/oauth/tokens')",
            f"ATTACH 's3://{TABLE_BUCKET}' AS attached (TYPE iceberg, SECRET catalog, "
            f"ENDPOINT '{server.uri}', ACCESS_DELEGATION_MODE 'none')",
        ),
    )
    reader = Reader(attaching, table_of(committer), "attached.lake.orders")
    contents = landing.contents()
    assert len(contents.rows) == 40
    reader.check(contents)
    letters = f"attached.{LETTERS}"
    assert attaching.count(f"SELECT count(*) FROM {letters} WHERE code = 'SCHEMA_VIOLATION'") == [8]
