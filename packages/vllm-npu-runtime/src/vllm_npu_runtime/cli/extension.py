"""Commands that other installed packages bring: entry points, each a plain function.

One that can't be loaded is a command that says so; the others aren't touched by it. A function
that takes a `typer.Context` gets what it doesn't declare in `context.args`, and checks it itself.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class ExtensibleGroup(TyperGroup):
    """A group with further commands by entry points, loaded when one is wanted or help is."""

    entry_points: ClassVar[str]
    """The entry points' group."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Its own commands, then the others by name."""
        own = super().list_commands(ctx)
        return [*own, *sorted(self._points().keys() - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Its own command of a name, or another package's."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        point = self._points().get(cmd_name)
        return None if point is None else _command(point)

    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.entry_points)}


def _command(point: EntryPoint) -> Any:
    try:
        return _as_command(point.name, point.load())
    except Exception as error:  # whatever another package's module does when it is imported
        problem = f"'{point.name}' ({point.value}) can't be loaded: {error}"

    def unavailable() -> None:
        typer.echo(problem, err=True)
        raise typer.Exit(1)

    unavailable.__doc__ = f"Not available: {problem}"
    return _as_command(point.name, unavailable)


def _as_command(name: str, function: Any) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    alone.command(name=name, context_settings=settings if _takes_any(function) else None)(function)
    return typer.main.get_command(alone)


def _takes_any(function: Any) -> bool:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return any(parameter.annotation is typer.Context for parameter in parameters)
