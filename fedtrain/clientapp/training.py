"""One round of training at one client."""

from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict

from fedtrain.clientapp.node import refuse_mode
from fedtrain.clientapp.private import answer_privately
from fedtrain.clientapp.site import Site
from fedtrain.clientapp.work import open_work
from fedtrain.flower.messages import protocol
from fedtrain.training import PlainTrainer


def train(content: RecordDict, context: Context, site: Site) -> RecordDict:
    """Train the received model on this client's records and return the reply's content.

    In a private mode the reply holds what the mode allows (see `fedtrain.clientapp.private`). Otherwise it holds the
    weights, the number of records and the mean loss.
    """
    work = open_work(content, context, site)
    refuse_mode(site.experiment, work.host)
    if site.experiment.privacy.mode != "none":
        return answer_privately(content, work, site.records(work.client))
    records = site.records(work.client)
    loss = PlainTrainer(config=site.experiment.training).train(work.model, site.task, records, work.settings)
    metrics = MetricRecord({protocol.WEIGHT: float(len(records)), protocol.LOSS: loss})
    return RecordDict({protocol.ARRAYS: ArrayRecord(work.model.state_dict()), protocol.METRICS: metrics})
