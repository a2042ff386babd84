"""The command line: python -m emo_viz COMMAND, one command for each module in emo_viz/commands."""

import importlib
import pkgutil

import click

from emo_viz import commands
from model.cli import one_sentence


class Commands(click.Group):
    """Finds its commands by their files, and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._modules())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self._modules().get(cmd_name)
        if name is None:
            return None
        module = importlib.import_module(f"{commands.__name__}.{name}")
        command: click.Command = module.command
        return command

    def _modules(self) -> dict[str, str]:
        """The module of each command; that of a Python keyword has an underscore at its end."""
        names = [module.name for module in pkgutil.iter_modules(commands.__path__)]
        return {name.rstrip("_").replace("_", "-"): name for name in names}

    def invoke(self, ctx: click.Context) -> object:
        with one_sentence():
            return super().invoke(ctx)


@click.command(cls=Commands)
def main() -> None:
    """Record language models with experts, and prepare what the app shows."""


if __name__ == "__main__":
    main(prog_name="python -m emo_viz")
