"""Starts the command `asyncflow`, also as `python -m asyncflow`.

A Ctrl-C while the command is being loaded ends the program as it ends any other; who
calls `cli.main` from a program of their own keeps their signals.
"""

import signal
import sys


def run() -> int:
    """Load the command line and run it on our own arguments; return the exit code."""
    # not where the shell has it ignored, as for what runs in the background
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if getattr(sys, "frozen", False):
        from multiprocessing import freeze_support  # noqa: PLC0415 -- takes its time

        # a frozen program starts its own workers by running itself
        freeze_support()
    from asyncflow.cli import main  # noqa: PLC0415 -- what a Ctrl-C may cut short

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(run())
