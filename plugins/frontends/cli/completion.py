"""`llamakit completion`: completion for shells."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
    eval "$(llamakit completion bash)"       # in ~/.bashrc
    eval "$(llamakit completion zsh)"        # in ~/.zshrc
    llamakit completion fish > ~/.config/fish/completions/llamakit.fish
    """
    from click.shell_completion import get_completion_class

    from llamakit.cli import llamakit

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(llamakit, {}, "llamakit", "_LLAMAKIT_COMPLETE").source())
