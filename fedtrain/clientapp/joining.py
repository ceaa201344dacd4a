"""What a client answers when it is asked who it is and what its ledger holds."""

from flwr.app import RecordDict

from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.policy import checked_plan, reserve_run
from fedtrain.clientapp.site import Site
from fedtrain.errors import BudgetError, PrivacySpecError
from fedtrain.flower.messages.introduction import Answer, ConsistencyProof, LedgerQuery, Query
from fedtrain.privacy.mechanisms import mechanism_of


def introduce(content: RecordDict, client: ClientContext, site: Site) -> RecordDict:
    """Say which client this is, and if asked show its public key.

    In a private mode, show its ledger with a signed statement that this is all of it.

    With secret cohorts a client that is told the noise of the run reserves the whole run, or says in the statement why
    it does not.

    Raises:
        TransportError: the query is malformed; it names what.
    """
    query = Query.from_records(content)
    return Answer(
        client=client.client,
        key=client.identity.public if query.key else None,
        ledger=None if query.ledger is None else _consistency_proof(query.ledger, client, site),
    ).to_records()


def _consistency_proof(query: LedgerQuery, client: ClientContext, site: Site) -> ConsistencyProof:
    experiment, noise = client.experiment, query.noise_multiplier
    with client.open_ledger(client.dataset_of(site.records(client.client))) as ledger:
        refusal = None
        if mechanism_of(experiment).reserves_run and noise is not None:
            try:
                reserve_run(ledger, client, checked_plan(experiment, noise), run=query.run)
            except (BudgetError, PrivacySpecError) as error:
                refusal = str(error)
        statement = ledger.statement(
            run=query.run, round_number=query.round_number, policy=client.limits, refusal=refusal
        )
        return client.consistency_proof(ledger, query.known, statement=statement)
