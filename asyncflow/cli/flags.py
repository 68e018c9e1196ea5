"""The settings as command-line flags, derived from where they are declared."""

from collections.abc import Callable, Mapping

import click
from click.shell_completion import CompletionItem as Item

from asyncflow.config import Declared, declared

Offers = Callable[[click.Context, click.Parameter, str], list[Item]]
ADDRESS_IN_USE = "the address is in use: choose another with --port"


def setting_flags() -> list[click.Parameter]:
    """Return one flag per setting; values stay text, the settings judge them."""
    return [
        click.Option(
            [setting.flag, setting.name],
            is_flag=setting.kind == "switch",
            default=None,
            metavar=None if setting.kind == "switch" else setting.kind,
            shell_complete=_offers(setting),
            help=setting.help + (f" [{setting.default}]" if setting.default else ""),
        )
        for setting in declared()
    ]


def _offers(setting: Declared) -> Offers | None:
    """Return what a shell offers as the value of *setting*, where that is known."""
    if setting.kind == "path":
        kind = "dir" if setting.name.endswith("_dir") else "file"

        def files(_c: click.Context, _p: click.Parameter, begun: str) -> list[Item]:
            return [Item(begun, type=kind)]

        return files

    def words(_c: click.Context, _p: click.Parameter, begun: str) -> list[Item]:
        return [Item(word) for word in setting.choices if word.startswith(begun)]

    return words if setting.choices else None


def given(values: Mapping[str, object]) -> dict[str, object]:
    """Return the flags that were really given."""
    return {name: value for name, value in values.items() if value is not None}


class SettingsRefused(click.ClickException):
    """The settings are wrong: ends a command with the exit code of wrong usage."""

    exit_code = 2
