"""What a client answers when it is asked who it is and what its ledger holds."""

from typing import cast

from flwr.app import ConfigRecord, RecordDict

from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.policy import checked_plan, reserve_run
from fedtrain.clientapp.site import Site
from fedtrain.errors import BudgetError, PrivacySpecError
from fedtrain.flower.messages import protocol


def introduce(content: RecordDict, client: ClientContext, site: Site) -> RecordDict:
    """Say which client this is, and if asked show its public key.

    In a private mode, show its ledger with a signed statement that this is all of it.

    In client privacy with Poisson cohorts a client that is told the noise of the run reserves the whole run, or says in
    the statement why it does not.
    """
    experiment = client.experiment
    reply = RecordDict({protocol.CLIENT: ConfigRecord({protocol.CLIENT: client.client})})
    if protocol.KEY in content.config_records:
        reply[protocol.KEY] = ConfigRecord({protocol.KEY: client.identity.public.encode()})
    question = content.config_records.get(protocol.LEDGER)
    if question is None:
        return reply
    run, known = cast("str", question[protocol.RUN]), cast("int", question[protocol.KNOWN])
    with client.open_ledger(client.dataset_of(site.records(client.client))) as ledger:
        refusal = None
        if experiment.privacy.secret_cohorts and protocol.NOISE_MULTIPLIER in question:
            try:
                plan = checked_plan(experiment, cast("float", question[protocol.NOISE_MULTIPLIER]))
                reserve_run(ledger, client, plan, run=run)
            except (BudgetError, PrivacySpecError) as error:
                refusal = str(error)
        number = cast("int", question[protocol.ROUND])
        statement = ledger.statement(run=run, round_number=number, policy=client.limits, refusal=refusal)
        reply[protocol.LEDGER] = client.shown(ledger, known, statement=statement)
    return reply
