"""The settings as command-line flags, derived from where they are declared."""

from collections.abc import Mapping

import click

from asyncflow.config import declared

ADDRESS_IN_USE = "the address is in use: choose another with --port"


def setting_flags() -> list[click.Parameter]:
    """Return one flag per setting; values stay text, the settings judge them."""
    return [
        click.Option(
            [setting.flag, setting.name],
            is_flag=setting.kind == "switch",
            default=None,
            metavar=None if setting.kind == "switch" else setting.kind,
            help=setting.help + (f" [{setting.default}]" if setting.default else ""),
        )
        for setting in declared()
    ]


def given(values: Mapping[str, object]) -> dict[str, object]:
    """Return the flags that were really given."""
    return {name: value for name, value in values.items() if value is not None}


class SettingsRefused(click.ClickException):
    """The settings are wrong: ends a command with the exit code of wrong usage."""

    exit_code = 2
