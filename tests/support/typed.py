"""Commands as a page shows them: does what is typed there exist?"""

from __future__ import annotations

from collections.abc import Iterator

import click

from scheduler import cli


def check(words: list[str]) -> None:
    """Fail where a command or an option that is typed after `pneumoq` does not exist."""
    words = list(words)
    path, command = "pneumoq", cli.cli
    while isinstance(command, click.Group):
        name = words.pop(0).strip("'")
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"{path}: no command {name!r}"
        path, command = f"{path} {name}", found
    for word in words:
        if word in (">", "#", "|"):
            break
        if path == "pneumoq schedule add" and word in ("train", "score"):
            # From here on it is what the schedule submits.
            check(words[words.index(word) :])
            break
        if word.startswith("--"):
            options = {option for p in command.params for option in p.opts + p.secondary_opts}
            assert word.partition("=")[0] in options, f"{path} {word}"


def commands(group: click.Group | None = None, *before: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, by what is typed after `pneumoq`."""
    group = group or cli.cli
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield " ".join((*before, name)), command
