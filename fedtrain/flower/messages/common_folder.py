"""What a server asks along with each message to simulated clients on several machines: whether its folder is theirs."""

from dataclasses import dataclass
from typing import Self

from flwr.app import ConfigRecord, RecordDict

from fedtrain.flower.messages.records import Fields

RECORD = "fedtrain.folder"
_NAME, _TOKEN, _PROBLEM = "name", "token", "problem"


@dataclass(frozen=True, kw_only=True)
class FolderQuery:
    """What is asked.

    Attributes:
        name: of the server's marker in the folder of all clients (`fedtrain.machines.common_folder`).
    """

    name: str

    def to_record(self) -> ConfigRecord:
        """Return it as part of a message."""
        return ConfigRecord({_NAME: self.name})

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: it is malformed.
        """
        return cls(name=Fields(content, RECORD, what="the question about the folder").text(_NAME))


@dataclass(frozen=True, kw_only=True)
class FolderAnswer:
    """What is answered.

    Attributes:
        token: what the client read there; empty where it did not find it.
        problem: why it did not, and then has done nothing else; empty where it did.
    """

    token: str = ""
    problem: str = ""

    def to_record(self) -> ConfigRecord:
        """Return it as part of a message."""
        return ConfigRecord({_TOKEN: self.token, _PROBLEM: self.problem})

    @classmethod
    def from_records(cls, content: RecordDict) -> Self:
        """Read it from the content of a message.

        Raises:
            TransportError: it is missing or malformed.
        """
        fields = Fields(content, RECORD, what="the answer about the folder")
        return cls(token=fields.text(_TOKEN), problem=fields.text(_PROBLEM))


def without_folder(content: RecordDict) -> RecordDict:
    """Return the content of a message without what is about the folder."""
    return RecordDict({name: record for name, record in content.items() if name != RECORD})
