"""The files and folders that a net names: what training read and wrote, which a deployed file should not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf.message import Message

# Fields of Caffe and its forks whose text is a path: `source`, `mean_file`, `label_map_file`, `root_folder`, ...
_IS_PATH = re.compile(r"(^|_)(sources?|weights|video_file|file_name|meanfile|file|folder|dir|directory)$")


def file_names(message: Message) -> list[str]:
    """Returns the names of files and folders in a message of Caffe's schema, in order, each once."""
    return list(dict.fromkeys(name for _, _, name in _places(message)))


def clear_file_names(message: Message) -> None:
    """Clears the fields that name files and folders, and what a net would write (`save_output_param`)."""
    for owner, field, _ in list(_places(message)):
        owner.ClearField(field)
    for owner in list(_messages(message)):
        if "save_output_param" in owner.DESCRIPTOR.fields_by_name:
            owner.ClearField("save_output_param")


def _places(message: Message) -> Iterator[tuple[Message, str, str]]:
    """Yields (message, field, text) of the fields that hold a path."""
    for owner in _messages(message):
        for field, value in owner.ListFields():
            if field.type == field.TYPE_STRING and _IS_PATH.search(field.name):
                texts = [value] if isinstance(value, (str, bytes)) else list(value)
                yield from ((owner, field.name, str(text)) for text in texts if text)


def _messages(message: Message) -> Iterator[Message]:
    """Yields a message and all those inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _messages(inner)
