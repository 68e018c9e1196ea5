"""The command line: `asyncflow …`."""

from asyncflow.cli.app import main as main
