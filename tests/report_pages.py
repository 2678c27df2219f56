"""A tree with a bit of everything, some of it hostile, for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from output_trees import NOON, OutputTree, dead_letter, kafka_columns, sources

SCRIPT = "<script>window.pwned = 1</script>"
IMAGE = '"><img src=http://example.invalid/x.png onerror="window.pwned = 1">'
STYLE = "</style><style>body{display:none}</style>"
CONTROLS = "\x1b[2J\x00\u202egnp.exe\u2066\u200b\x9b31m"
HOSTILE = (SCRIPT, IMAGE, STYLE, CONTROLS, "&lt;script&gt;", "x" * 5_000, "\u05d0\u05d1 A")


def hostile_tree(root: Path) -> OutputTree:
    """40 rows in 4 files, 14 dead letters, and a file that no pipeline named."""
    tree = OutputTree(root)
    for number in range(4):
        rows = sources("orders", number % 2, range(10 * number, 10 * number + 10))
        table = pa.table(
            {
                SCRIPT: pa.array(["a", None] * 5, pa.string()),
                f"{IMAGE}{CONTROLS}": pa.array([SCRIPT, CONTROLS] * 5, pa.string()),
                "amount": pa.array([None, *range(9)], pa.int64()),
                "at": pa.array([NOON] * 10, pa.timestamp("us", "UTC")),
                "tags": pa.array([[STYLE], None] * 5, pa.list_(pa.string())),
                **kafka_columns(rows),
            }
        )
        tree.parquet(rows, table=table)
    letters = []
    for offset, text in enumerate(HOSTILE):
        letter = dead_letter("orders", 0, 100 + offset, violations=[(text, text)])
        letter["error"]["message"] = text
        letter["source"]["topic"] = SCRIPT if offset else "orders"
        letters.append(letter)
        letters.append(dead_letter("orders", 1, 100 + offset, code=text))
    tree.raw_letters(letters)
    (tree.output_dir / f"{SCRIPT.replace('/', '')}\x1b.parquet").write_bytes(b"no Parquet")
    return tree
