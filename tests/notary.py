"""Signs as a server and its clients do, with real keys and real files, for tests that need no training."""

from hashlib import sha256

from fedtrain.config import to_flat
from fedtrain.config.loading import config_digest
from fedtrain.crypto import Identity
from fedtrain.ledger import FirstRecord, Ledger, LedgerCopyStore, RunLog, SitePolicy
from fedtrain.report import Dropped, RoundEntry
from fedtrain.serverapp.audit_trail import AuditTrail
from fedtrain.serverapp.pinned import PinnedKeys
from fedtrain.trust import Roster


def digest(*parts):
    return sha256(repr(parts).encode()).hexdigest()


class Notary:
    """A private run's signed records, as they grow, without the training."""

    def __init__(self, preparation, folder, *, noise="seeded", run="this", withheld=False, identities=None, sites=None):
        experiment, self.folder, self.run = preparation.experiment, folder, run
        clients = range(experiment.federation.clients)
        self.sites = sites or folder / "sites"
        self.server = Identity.load_or_create(folder / "server.pem")
        self.identities = identities or {client: Identity.generate() for client in clients}
        roster = Roster(server=self.server.public, clients={c: key.public for c, key in self.identities.items()})
        log = RunLog.open(folder / "record.jsonl", self.server)
        log.append(
            FirstRecord(
                run=run,
                mode=experiment.privacy.mode,
                config=config_digest(to_flat(experiment)),
                plan=preparation.plan.as_data(),
                noise=noise,
                roster=roster.digest,
                clients=len(clients),
                rounds=experiment.federation.rounds,
                fedtrain="test",
            )
        )
        copies = LedgerCopyStore(folder / "copies", roster.clients)
        self.plan = preparation.plan
        self.trail = AuditTrail(
            plan=preparation.plan, noise=noise, log=log, keys=PinnedKeys(roster), copies=copies, withheld=withheld
        )

    def ledger(self, client):
        return Ledger.open(self.sites / str(client), dataset=digest(client), identity=self.identities[client])

    def train(self, client, number, *, run=None, show=True, repeatable=True):
        """Let a client train, and show its new entries if it answers."""
        with self.ledger(client) as ledger:
            reservation = ledger.reserve(
                run=run or self.run,
                round_number=number,
                plan=self.plan.digest,
                model=digest("request", number),
                event=self.plan.event(self.plan.spec.steps_per_round),
                repeatable=repeatable,
                unit=self.plan.spec.unit,
                noise=self.trail.noise,
            )
            ledger.settle(reservation, digest("update", client, number))
            envelopes = ledger.envelopes
        if show:
            self.trail.copies.receive(client, envelopes, None, first=0)

    def state(self, client, number, *, refusal=None):
        """Let a client state that what it shows is all there is."""
        with self.ledger(client) as ledger:
            policy = SitePolicy(epsilon=9.0, delta=self.plan.spec.delta)
            statement = ledger.statement(run=self.run, round_number=number, policy=policy, refusal=refusal)
            self.trail.copies.receive(client, ledger.envelopes, statement, first=0)

    def ask(self, number, cohort, *, sealed=False, secagg=False):
        self.trail.asked(number, tuple(cohort), digest("request", number), sealed=sealed, secagg=secagg)

    def round(self, number, cohort, *, silent=(), mute=(), sealed=False, secagg=None):
        """Run a round in which some clients do not answer, and others, whose updates are in a sum, fall mute then."""
        self.ask(number, cohort, sealed=sealed, secagg=secagg is not None)
        answering = tuple(client for client in cohort if client not in silent)
        for client in answering:
            self.train(client, number)
        entry = RoundEntry(
            round=number,
            cohort=tuple(cohort),
            completed=answering,
            dropped=tuple(Dropped(client=client, reason="no answer") for client in silent),
            sealed=sealed,
            secagg=secagg,
            clip_norm=self.plan.spec.clip_norm,
            learning_rate=0.1,
            seconds=0.5,
        )
        self.trail.completed(entry, digest("request", number), aggregate=digest("model", number), silent=mute)
        return entry
