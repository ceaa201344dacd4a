"""Ask along with each message whether the client's folder is the server's, and end the run where it is not."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedtrain.errors import ClientError, TransportError
from fedtrain.flower.grids.base import GridWrapper
from fedtrain.flower.messages.common_folder import RECORD, FolderAnswer, FolderQuery, without_folder
from fedtrain.machines.common_folder import Marker, marked


class CommonFolderGrid(GridWrapper):
    """Lets no reply pass of a client that did not show what lies in the server's folder: the stage next to the runtime.

    A client that does not find it does nothing else, and says so; the run ends with what it says. One that fails for
    another reason shows nothing, and its error passes.
    """

    def __init__(self, inner: Grid, marker: Marker) -> None:
        """Wrap a grid.

        Args:
            inner: the grid of the runtime.
            marker: what lies in the server's folder.
        """
        super().__init__(inner)
        self._marker = marker

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages with the question."""
        messages = list(messages)
        record = FolderQuery(name=self._marker.name).to_record()
        for message in messages:
            # Strategies put one content into all messages.
            message.content = RecordDict({**message.content, RECORD: record})
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies so far, without what they show.

        Raises:
            ClientError: a client works in another folder, or does not say in which.
        """
        replies = list(self._inner.pull_messages(message_ids))
        for reply in replies:
            if not reply.has_error():
                self._check(reply)
                reply.content = without_folder(reply.content)
        return replies

    def _check(self, reply: Message) -> None:
        try:
            answer = FolderAnswer.from_records(reply.content)
        except TransportError as error:
            raise ClientError(
                f"node {reply.metadata.src_node_id} does not show in which folder its client works: {error}; install "
                "the same version of fedtrain on all machines of the cluster"
            ) from error
        if answer.token != self._marker.token:
            raise ClientError(
                f"the machines of the cluster do not share the folder of the clients' files: {answer.problem}. A "
                "client is answered wherever a process is free, and with a folder on each machine it has several "
                "keys and ledgers, none of which has all that it spent. Name a folder that all of them share by an "
                "absolute path, with federation.sites, or with output.directory where that is not set; nothing was "
                "trained there"
            )


@contextmanager
def in_common_folder(grid: Grid, folder: Path) -> Iterator[Grid]:
    """Give a grid over which clients answer that work in a folder of the server's, and no others.

    Raises:
        StorageError: the folder cannot be written, or its file system has no locks.
    """
    with marked(folder) as marker:
        yield CommonFolderGrid(grid, marker)
