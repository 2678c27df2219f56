"""Flags that several of the tools take."""

from __future__ import annotations

import argparse
from pathlib import Path

from beam_pipeline.kafka.connection import KafkaConnection


def add_kafka_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `kafka_connection` reads."""
    parser.add_argument(
        "--kafka_bootstrap_servers",
        metavar="HOST:PORT[,…]",
        help="brokers to ask first; may stand in the file of --kafka_config instead",
    )
    parser.add_argument(
        "--kafka_config",
        type=Path,
        metavar="FILE",
        help="client properties, one key=value a line, such as SASL and SSL settings",
    )


def kafka_connection(args: argparse.Namespace) -> KafkaConnection:
    """The connection that the Kafka flags describe.

    Raises:
        UsageError: no address, or settings that no client takes.
    """
    return KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)


def add_output_dir_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--output_dir`."""
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("data/output"),
        metavar="DIR",
        help="where the pipeline wrote Parquet files (default: %(default)s)",
    )


def add_dead_letter_dir_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--dead_letter_dir`."""
    parser.add_argument(
        "--dead_letter_dir",
        type=Path,
        default=Path("data/dead"),
        metavar="DIR",
        help="where the pipeline wrote dead letters (default: %(default)s)",
    )


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def topic_names(text: str) -> list[str]:
    """Splits `a,b` into its names; an argparse type.

    Raises:
        argparse.ArgumentTypeError: there is none.
    """
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("give one name or more, separated by commas")
    return found
