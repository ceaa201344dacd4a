"""Answer a message only where the folder of the clients' files is the one that the server works in."""

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedtrain.errors import StorageError
from fedtrain.flower.messages.common_folder import RECORD, FolderAnswer, FolderQuery, without_folder
from fedtrain.machines.common_folder import token_of

# Returns the folder of all clients; ``None`` on a machine of a client's own, whose folder is nobody else's.
FindFolder = Callable[[Context], Path | None]


def common_folder_mod(find_folder: FindFolder) -> Mod:
    """Return the mod. It belongs outside of whatever reads or writes files of the client: its key, sessions, ledgers.

    A message without the question passes as it came: the local engine and a client's own machine have one folder.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        folder = find_folder(context) if RECORD in message.content else None
        if folder is None:
            return call_next(message, context)
        try:
            token = token_of(folder, FolderQuery.from_records(message.content).name)
        except StorageError as error:
            return Message(RecordDict({RECORD: FolderAnswer(problem=str(error)).to_record()}), reply_to=message)
        reply = call_next(make_message(metadata=message.metadata, content=without_folder(message.content)), context)
        if not reply.has_error():
            reply.content[RECORD] = FolderAnswer(token=token).to_record()
        return reply

    return mod
