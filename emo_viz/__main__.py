"""The command line: python -m emo_viz COMMAND, one command for each module in emo_viz/commands."""

import importlib
import pkgutil

import click

from emo_viz import commands
from model.cli import one_sentence


class Commands(click.Group):
    """Finds its commands by their files, and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        modules = pkgutil.iter_modules(commands.__path__)
        return sorted(module.name.replace("_", "-") for module in modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{commands.__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> object:
        with one_sentence():
            return super().invoke(ctx)


@click.command(cls=Commands)
def main() -> None:
    """Record language models with experts, and prepare what the app shows."""


if __name__ == "__main__":
    main(prog_name="python -m emo_viz")
