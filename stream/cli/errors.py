"""What a user can mend is said in one line; what only we can mend keeps its traceback."""

from collections.abc import Mapping
from typing import Any

import click


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
        except Exception as error:
            if isinstance(error, BrokenPipeError) or not isinstance(error, mistakes()):
                raise  # who read our output has left: click ends quietly; else: it is ours to mend
            raise _plain(error) from None


def mistakes() -> tuple[type[Exception], ...]:
    """All that a file, a setting, a folder or a server can be the cause of."""
    from aiokafka.errors import KafkaError
    from redis.exceptions import RedisError

    from agents.ledger import UnknownRecordType
    from agents.partition import Diverged
    from stream.demo.client import NoAnswer
    from stream.kafka.authorization import AuthorizationDenied, BrokerUnavailable
    from stream.kafka.producer import ProduceError
    from stream.kafka.reader import LogTruncated
    from stream.kafka.topics import TopicMismatch
    from stream.local.process import StackError
    from stream.offline.audit import NotAuditable
    from stream.storage.tensor_file import SnapshotMismatch

    refused = (
        LogTruncated,
        AuthorizationDenied,
        Diverged,
        SnapshotMismatch,
        NotAuditable,
        UnknownRecordType,
        TopicMismatch,
    )
    away = (NoAnswer, StackError, BrokerUnavailable)
    return KafkaError, OSError, RedisError, ProduceError, ValueError, *refused, *away


def _plain(error: Exception) -> click.ClickException:
    from stream.settings_schema import SettingError

    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    plain = click.ClickException(text)
    plain.exit_code = 2 if isinstance(error, SettingError) else 1
    return plain
