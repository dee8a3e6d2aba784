"""What a user can mend is said in one line; what only we can mend keeps its traceback."""

from collections.abc import Mapping
from typing import Any

import click

from stream.errors import RankloopError


class OneLineErrorGroup(click.Group):
    """A group of commands that end a user's mistake in one line.

    The exit code is 2 if a setting is to be mended, else 1. The commands of its groups are meant,
    too.

    >>> main = OneLineErrorGroup("main", [click.Command("read", callback=lambda: open("/none"))])
    >>> main(["read"], standalone_mode=False)
    Traceback (most recent call last):
    click.exceptions.ClickException: /none: No such file or directory
    """

    sections: Mapping[str, tuple[str, ...]] = {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands under the headings of `sections`, where there are any; else as click does."""
        if not self.sections:
            return super().format_commands(ctx, formatter)
        for heading, names in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(70)) for name in names]
                )
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who read our output has left: click ends quietly
        except (RankloopError, OSError, ValueError, *_client_errors()) as error:
            raise _plain(error) from None


def _client_errors() -> tuple[type[Exception], ...]:
    """What the clients of Kafka and Redis raise; slow to import, so only once something failed."""
    from aiokafka.errors import KafkaError
    from redis.exceptions import RedisError

    return KafkaError, RedisError


def _plain(error: Exception) -> click.ClickException:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    plain = click.ClickException(text)
    if isinstance(error, RankloopError):
        plain.exit_code = error.exit_code
    return plain
