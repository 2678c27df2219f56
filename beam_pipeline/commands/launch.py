"""What `run` and `demo` share: logs, leases, signals, the engine and its supervisor, the view."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from rich.console import Console

from beam_pipeline import resources
from beam_pipeline.commands.event_command import EventRunner
from beam_pipeline.commands.live.view import RunView
from beam_pipeline.compiled.plan import compile_plan, warn_of
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.records import REQUESTS
from beam_pipeline.runtime import preflight
from beam_pipeline.runtime.epochs import ResumedEpoch
from beam_pipeline.runtime.flink.engine import (
    FlinkEngine,
    FlinkSettings,
    end_job,
    find_flink_tools,
)
from beam_pipeline.runtime.flink.job_record import (
    FlinkJobRecord,
    job_records,
    record_of_savepoint,
    remove_records,
)
from beam_pipeline.runtime.flink.preflight import (
    check_cluster,
    needs_jars,
    task_manager_hosts,
    unshared,
)
from beam_pipeline.runtime.flink.rest import FlinkRest, FlinkUnreachableError
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.runtime.lease_terms import Lease
from beam_pipeline.runtime.prism.engine import PrismEngine, find_local_tools
from beam_pipeline.runtime.programs.cache import cache_directory
from beam_pipeline.runtime.programs.jvm import reader_heap_mb
from beam_pipeline.runtime.programs.kernel import look_for_kernel
from beam_pipeline.runtime.run_plan import RunPlan
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.runtime.scope import Scope
from beam_pipeline.runtime.supervisor import Supervisor
from beam_pipeline.runtime.table_committer import check_table
from beam_pipeline.schemas import Contract
from beam_pipeline.settings.config import (
    EngineSettings,
    MetricsSettings,
    PipelineSettings,
    SupervisionSettings,
)
from beam_pipeline.settings.table import TableSettings, table_job
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.urls import absolute, is_url


@dataclass(frozen=True)
class RunLogs:
    """Log files of one run: `<directory>/<start>-<process>.log`."""

    directory: Path
    started: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))

    def file(self, name: str) -> Path:
        """Return the log file of the process `name`."""
        return self.directory / f"{self.started}-{name}.log"


def unsent_text(status: RunStatus, settings: PipelineSettings, *, at_stop: bool) -> str | None:
    """Return one line on the dead letters that their topic does not have; None if it has all."""
    unsent = status.unsent
    if not unsent.files:
        return None
    reason = f" ({status.unsent_reason})" if status.unsent_reason else ""
    topics = ", ".join(
        f"{topic}{settings.dead_letter_topic_suffix}" for topic in settings.input_topics
    )
    remedy = "" if at_stop else "make the topic writable; "
    return (
        f"{unsent.letters:,} dead letters in {unsent.files:,} files are not in the topic "
        f"{topics} yet{reason}; {remedy}the next start sends them"
    )


def requests_text(status: RunStatus, settings: PipelineSettings) -> str | None:
    """Return one line on the requests to the object stores of a run; None if it has none.

    They are those of the workers, by the job's counters, and those of this process.
    """
    requests = Counter[str]()
    for name, count in status.counters.items():
        if name.startswith(f"{REQUESTS}."):
            requests[name.removeprefix(f"{REQUESTS}.")] += count
    roots = (settings.output_path, settings.dead_letter_path)
    storages = {root.storage.url: root.storage for root in roots if isinstance(root, ObjectPath)}
    if not storages:
        return None
    for storage in storages.values():
        requests.update(storage.requests)
    counts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(requests.items()))
    return f"requests to the object store: {counts}"


@dataclass(frozen=True)
class Launch:
    """A run to be started: what its flags say, and where it tells what it does."""

    settings: PipelineSettings
    engine: EngineSettings
    supervision: SupervisionSettings
    beam_flags: Sequence[str]
    logs: RunLogs
    console: Console
    table: TableSettings | None = None

    def say(self, text: str) -> None:
        """Print a line as it is, without markup, colours or folding."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def check(self) -> None:
        """Make every check before a run, and say its warnings and what is special of the schema.

        Raises:
          PipelineError: the run can't start.
        """
        if self.table is not None and (warning := check_table(self.table)):
            self.say(f"warning: {warning}")
        for warning in preflight.check(self.settings):
            self.say(f"warning: {warning}")
        contract = self.settings.contract()
        for note in contract.notes:
            self.say(note)
        if self.settings.compiled_contract:
            self._say_what_is_not_compiled(contract)

    def _say_what_is_not_compiled(self, contract: Contract) -> None:
        if look_for_kernel() is None:
            fetch = f"{resources.program('run_direct.sh')} fetch"
            self.say(
                f"the native code of --compiled_contract is not there; `{fetch}` builds it, and "
                "until then records take the exact path, with the same results"
            )
        elif warning := warn_of(compile_plan(contract)):
            self.say(warning)

    @property
    def directories(self) -> dict[str, StoredPath]:
        """The directories that every worker and this machine must share, by flag."""
        return directories_of(self.settings)

    def follow(
        self,
        supervisor: Supervisor,
        observe: Callable[[RunStatus], None],
        title: str,
        stop: Event,
    ) -> bool:
        """Run to the goal or a stop, shown in the terminal; return whether the goal was reached.

        Args:
          supervisor: of the run.
          observe: called at each tick of the run.
          title: of the view.
          stop: ends the run when it is set.

        Raises:
          PipelineError: the run has failed for good.
        """
        with self.view(title, self.settings.connection()) as view:

            def on_tick(status: RunStatus) -> None:
                view.show(status)
                observe(status)

            return supervisor.run(stop, on_tick)

    def view(self, title: str, connection: KafkaConnection) -> RunView:
        """Return the view of the run."""
        return RunView(title, self.console, connection)

    def observers(self, stack: ExitStack, status: RunStatus) -> Callable[[RunStatus], None]:
        """Begin to serve metrics and to tell of events, as far as that is asked for.

        Args:
          stack: ends both; at its end the last events are delivered.
          status: that of the run which is about to begin.

        Returns:
          what is to be called at each tick of the run.

        Raises:
          EnvironmentFailure: the port is taken.
        """
        observers: list[Callable[[RunStatus], None]] = []
        if self.supervision.metrics is not None:
            observers.append(self._metrics(stack, self.supervision.metrics))
        if self.supervision.on_event is not None:
            about = {"output_dir": self.settings.output_dir, "log_dir": str(self.logs.directory)}
            command, log_file = self.supervision.on_event, self.logs.file("events")
            observers.append(
                stack.enter_context(EventRunner(command, about, log_file, status)).take
            )

        def observe(status: RunStatus) -> None:
            for observer in observers:
                observer(status)

        return observe

    def _metrics(self, stack: ExitStack, settings: MetricsSettings) -> Callable[[RunStatus], None]:
        from beam_pipeline.commands.metrics.exporter import RunMetrics  # 50 ms to import

        places = {
            "output": self.settings.output_path,
            "dead_letters": self.settings.dead_letter_path,
        }
        metrics = stack.enter_context(RunMetrics(settings, places))
        self.say(f"metrics: {metrics.url}")
        return metrics.update

    def supervisor(
        self,
        connection: KafkaConnection,
        stack: ExitStack,
        scope: Scope | None = None,
        *,
        is_part: bool = False,
    ) -> Supervisor:
        """Hold the directories and return the run on its engine.

        Args:
          connection: the cluster.
          stack: ends what the run needs.
          scope: what of the logs it lands; by default all.
          is_part: whether its job passes records that it does not land.

        Raises:
          EnvironmentFailure: another run holds a directory, the engine can't be had, or a Flink
            job still writes there.
        """
        leases = hold_leases(stack, self.directories, self.say)
        output_dir = self.settings.output_path
        plan = RunPlan(
            connection=connection,
            settings=self.settings,
            beam_flags=self.beam_flags,
            max_restarts=self.supervision.max_restarts,
            breaker_limits=self.supervision.breaker_limits,
            detach=self.engine.detach,
            dead_letter_topic_timeout_seconds=self.supervision.dead_letter_topic_timeout_seconds,
            accept_expired=self.supervision.accept_expired,
            discovery_interval_seconds=self.supervision.discovery_interval_seconds,
            table=None if self.table is None else table_job(self.settings, self.table),
        )
        end_earlier_jobs(output_dir)
        if self.engine.on_flink:
            return _FlinkRun(self, plan, stack, is_part=is_part).supervisor(leases, scope)
        return Supervisor(
            plan,
            PrismEngine(
                find_local_tools(), self.logs.file, reader_heap_mb(self.settings.max_value_bytes)
            ),
            self.logs.file,
            leases,
            on_submit=lambda epoch: remove_records(output_dir),
            scope=scope,
        )


def logs_in(directory: Path) -> RunLogs:
    """Return the log files of a run that starts now.

    Raises:
      EnvironmentFailure: the directory can't be written.
    """
    preflight.check_writable(directory, "--log_dir", private=True)
    return RunLogs(directory)


def temporary_directory(purpose: str) -> Path:
    """Make a temporary directory for a broker, a cluster or a job.

    Raises:
      EnvironmentFailure: it can't be made.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=f"beam-pipeline-{purpose}-"))
    except OSError as error:
        raise EnvironmentFailure(
            f"TMPDIR={tempfile.gettempdir()}: {error.strerror}; make room there, or set TMPDIR to "
            "another directory"
        ) from None


def stop_on_signals() -> Event:
    """Return an event that SIGINT and SIGTERM set."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def directories_of(settings: PipelineSettings) -> dict[str, StoredPath]:
    """Return the output and the dead-letter directory, by flag."""
    return {
        "--output_dir": settings.output_path,
        "--dead_letter_dir": settings.dead_letter_path,
    }


def with_parts_dir(settings: PipelineSettings, engine: EngineSettings) -> PipelineSettings:
    """Return the settings with a directory for parts, where the workers are on this machine.

    Files in directories have their parts beside them.
    """
    is_elsewhere = engine.on_flink and engine.flink_master is not None
    roots = (settings.output_dir, settings.dead_letter_dir)
    if settings.parts_dir or is_elsewhere or not any(map(is_url, roots)):
        return settings
    return replace(settings, parts_dir=str(cache_directory() / "parts"))


def storage_flags(settings: PipelineSettings) -> list[str]:
    """Return the flags that a command to copy needs besides those of the places."""
    return [f"--storage_config={settings.storage_config}"] if settings.storage_config else []


def hold_leases(
    stack: ExitStack, places: Mapping[str, StoredPath], say: Callable[[str], object]
) -> list[Lease]:
    """Hold directories and prefixes, by flag, for the time of `stack`; one named twice once."""
    flags: dict[StoredPath, str] = {}
    for flag, place in places.items():
        flags.setdefault(place.resolve() if isinstance(place, Path) else place, flag)
    return [stack.enter_context(hold_lease(place, flag, say=say)) for place, flag in flags.items()]


def end_earlier_jobs(output_dir: StoredPath) -> None:
    """Make sure that no Flink job writes the directory any more.

    A job whose command was killed is cancelled; one that was detached on purpose is not.

    Raises:
      EnvironmentFailure: a detached job runs, or its cluster does not answer.
    """
    for record in job_records(output_dir):
        try:
            job = record.running_job()
        except FlinkUnreachableError as error:
            if record.local:
                continue
            raise EnvironmentFailure(
                f"job {record.job_name} may still write --output_dir={output_dir}: {error}; bring "
                "the cluster back, or make sure that the job has ended and remove "
                f"{output_dir}/_ledger/flink"
            ) from None
        if job is None:
            continue
        if record.detached:
            raise EnvironmentFailure(
                f"--output_dir={output_dir} is being written by job {job.id} on {record.master}; "
                f"end it with: ./run_flink.sh cancel --output_dir={output_dir}"
            )
        end_job(FlinkRest(record.master), job.id)


class _FlinkRun:
    """A run on Flink and the record of its jobs."""

    def __init__(
        self, launch: Launch, plan: RunPlan, stack: ExitStack, *, is_part: bool = False
    ) -> None:
        settings = launch.engine
        self._launch, self._plan, self._is_part = launch, plan, is_part
        self._output_dir = launch.settings.output_path
        self._resumed: FlinkJobRecord | None = None
        if settings.from_savepoint:
            self._resumed = record_of_savepoint(self._output_dir, settings.from_savepoint)
        tools = find_flink_tools(with_cluster=not settings.flink_master)
        ship_jars = plain_source = False
        if settings.flink_master:
            rest = FlinkRest(settings.flink_master)
            check_cluster(rest, settings.parallelism, settings.worker_pool)
            for warning in unshared(task_manager_hosts(rest), launch.directories):
                launch.say(warning)
            ship_jars = needs_jars(rest)
            plain_source = not ship_jars and tools.jars[-1].name not in rest.class_path()
            if plain_source:
                launch.say(
                    f"warning: the cluster lacks {tools.jars[-1].name}, without which large values "
                    "need more memory; run `flink jars` again and restart it"
                )
        directory = temporary_directory("flink")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self._engine = FlinkEngine(
            tools,
            FlinkSettings(
                parallelism=settings.parallelism,
                checkpointing_interval_ms=settings.checkpointing_interval_ms,
                master=settings.flink_master,
                worker_pool=settings.worker_pool if settings.flink_master else None,
                savepoint=settings.from_savepoint,
                ship_jars=ship_jars,
                plain_source=plain_source,
                reader_heap_mb=reader_heap_mb(launch.settings.max_value_bytes),
            ),
            directory,
            launch.logs.file,
            on_job=self._record_job,
        )
        launch.say(f"Flink's web UI: {self._engine.rest.web_url}")

    def supervisor(self, leases: list[Lease], scope: Scope | None) -> Supervisor:
        resumed = self._resumed
        return Supervisor(
            self._plan,
            self._engine,
            self._launch.logs.file,
            leases,
            resumed=ResumedEpoch(resumed.epoch, resumed.covered) if resumed else None,
            on_submit=self._record_epoch,
            kept_epoch=self._kept_epoch,
            scope=scope,
        )

    def _record_epoch(self, epoch: ResumedEpoch) -> None:
        """Before a job is submitted, make savepoints of other epochs unusable."""
        settings = self._launch.settings
        earlier = [record for record in job_records(self._output_dir) if record.epoch == epoch.name]
        record = FlinkJobRecord(
            epoch=epoch.name,
            master=self._engine.rest.master,
            dead_letter_dir=settings.dead_letter_dir,
            part_retention_seconds=settings.part_retention_seconds,
            covered=epoch.covered,
            detached=self._plan.detach,
            local=self._engine.is_local,
            job_ids=earlier[0].job_ids if earlier else (),
            savepoints=earlier[0].savepoints if earlier else (),
            parts_dir=settings.parts_dir and absolute(settings.parts_dir),
            is_part=self._is_part,
        )
        record.save(self._output_dir)
        remove_records(self._output_dir, but_epoch=epoch.name)

    def _record_job(self, job_id: str) -> None:
        (record,) = job_records(self._output_dir)
        record.with_job(job_id).save(self._output_dir)

    def _kept_epoch(self) -> str:
        """Return the epoch whose parts a checkpoint or savepoint may still need, or "".

        A job on a cluster of the user's own leaves a checkpoint behind; one on a cluster that was
        started here leaves savepoints only.
        """
        records = job_records(self._output_dir)
        kept = [record for record in records if record.savepoints or not record.local]
        remove_records(self._output_dir, but_epoch=kept[0].epoch if kept else "")
        return kept[0].epoch if kept else ""
