"""`beam-pipeline completion`: a script that lets a shell complete commands and flags."""

from __future__ import annotations

import argparse
import sys

SHELLS = ("bash", "zsh", "fish")
SCRIPTS = ("run_direct.sh", "run_flink.sh")
"""The names beside `beam-pipeline` that take its commands."""

_DESCRIPTION = """\
Prints a script with which a shell completes commands, flags, choices and file names, for
beam-pipeline, run_direct.sh and run_flink.sh. The script is static: completion starts no program.
Print it again after an update.
"""
_EPILOG = """\
examples:
  bash:  source <(beam-pipeline completion bash)     in ~/.bashrc
  zsh:   beam-pipeline completion zsh > _beam-pipeline     in a directory of $fpath
  fish:  beam-pipeline completion fish > ~/.config/fish/completions/beam-pipeline.fish
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `completion`, its description and its examples to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    """Print the script for the whole command line; return 0."""
    sys.stdout.write(completion_script(args.make_parser(), args.shell))
    return 0


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for `shell`, one of SHELLS, that completes the command line of `parser`."""
    import shtab

    _mark_files(parser)
    script: str = shtab.complete(parser, shell)
    return _for_scripts_too(script, shell, parser.prog)


def _mark_files(parser: argparse.ArgumentParser) -> None:
    """Complete arguments that name files or directories with those."""
    import shtab

    kinds = {"FILE": shtab.FILE, "FILE[,…]": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}
    kinds.update({"OLD": shtab.FILE, "NEW": shtab.FILE})
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _mark_files(below)
        elif isinstance(action.metavar, str) and (kind := kinds.get(action.metavar)):
            action.complete = kind  # type: ignore[attr-defined]


def _for_scripts_too(script: str, shell: str, program: str) -> str:
    if shell == "fish":
        # fish knows `./run_direct.sh` by that name alone.
        aliases = [alias for name in SCRIPTS for alias in (name, f"./{name}")]
        return script + "".join(f"complete -c {alias} -w {program}\n" for alias in aliases)
    names = " ".join((program, *SCRIPTS))
    if shell == "zsh":
        script = script.replace(f"#compdef {program}\n", f"#compdef {names}\n", 1)
        return script.replace(f" -N {program}\n", f" -N {names}\n", 1)
    return f"{script.rstrip().removesuffix(program)}{names}\n"
