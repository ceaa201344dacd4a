"""What a client answers when it is asked who it is and what its ledger holds."""

from typing import cast

from flwr.app import ConfigRecord, Context, RecordDict

from fedtrain.clientapp.host import host_of
from fedtrain.clientapp.node import open_node
from fedtrain.clientapp.private import shown
from fedtrain.clientapp.reserving import reserve_run
from fedtrain.clientapp.site import Site, checked_plan
from fedtrain.errors import BudgetError, PrivacySpecError
from fedtrain.flower.messages import protocol


def introduce(content: RecordDict, context: Context, site: Site) -> RecordDict:
    """Say which client this is, and if asked show its public key.

    In a private mode, show its ledger with a signed statement that this is all of it.

    In client privacy with Poisson cohorts a client that is told the noise of the run reserves the whole run, or says in
    the statement why it does not.
    """
    experiment = site.experiment
    host = host_of(context, experiment)
    reply = RecordDict({protocol.CLIENT: ConfigRecord({protocol.CLIENT: host.client})})
    if protocol.KEY in content.config_records:
        public = open_node(experiment, host).identity.public
        reply[protocol.KEY] = ConfigRecord({protocol.KEY: public.encode()})
    question = content.config_records.get(protocol.LEDGER)
    if question is None:
        return reply
    run, known = cast("str", question[protocol.RUN]), cast("int", question[protocol.KNOWN])
    node = open_node(experiment, host)
    with node.open_ledger(node.dataset_of(site.records(host.client))) as ledger:
        refusal = None
        if experiment.privacy.secret_cohorts and protocol.NOISE_MULTIPLIER in question:
            try:
                plan = checked_plan(experiment, cast("float", question[protocol.NOISE_MULTIPLIER]))
                reserve_run(ledger, node, experiment, plan, run=run)
            except (BudgetError, PrivacySpecError) as error:
                refusal = str(error)
        number = cast("int", question[protocol.ROUND])
        statement = ledger.statement(run=run, round_number=number, policy=node.policy, refusal=refusal)
        reply[protocol.LEDGER] = shown(node, ledger, known, statement=statement)
    return reply
