"""A federation with real keys, its ledgers and its record, and the report that it honestly leaves."""

import base64
import copy
import json
from dataclasses import dataclass, field
from hashlib import sha256

from fedtrain.config import from_flat, to_flat
from fedtrain.config.loading import config_digest
from fedtrain.crypto import Identity, SignedEnvelope, canonical
from fedtrain.ledger import read_chain, read_records
from fedtrain.ledger.entry import PAYLOAD_TYPE as ENTRY
from fedtrain.ledger.record import PAYLOAD_TYPE as RECORD
from fedtrain.ledger.statement import PAYLOAD_TYPE as STATEMENT
from fedtrain.ledger.statement import Statement
from fedtrain.privacy import AdaptiveClipping, PrivacyPlan, PrivacySpec, SampledGaussian
from fedtrain.privacy.correlation import Correlation
from fedtrain.privacy.mechanisms import mechanism_of_plan
from fedtrain.privacy.mechanisms.banded import ClientBanded
from fedtrain.privacy.shares import NoiseShares
from fedtrain.report import SCHEMA, Report, body_digest
from fedtrain.report.claim import ClientLedger, derive_claim
from fedtrain.trust import Roster

NOTHING = "0" * 64
TIME = "2026-02-03T04:05:06Z"
OLDER = SampledGaussian(sampling_rate=0.5, noise_multiplier=3.0, steps=2)


def digest(*parts):
    return sha256(repr(parts).encode()).hexdigest()


def payload(envelope):
    return json.loads(base64.b64decode(envelope["payload"]))


def line(envelope):
    return SignedEnvelope.from_json(envelope).line()


def places(ledger):
    """Give the place and the digest of the line of each entry, by the update that it settles."""
    lines = enumerate(ledger)
    return {payload(entry)["update"]: (place, sha256(line(entry)).hexdigest()) for place, entry in lines}


def chain(payload_type, payloads, identity):
    """Sign payloads as a hash chain; each is given its place and its link."""
    envelopes, previous = [], NOTHING
    for number, content in enumerate(payloads):
        linked = {**content, "sequence": number, "previous": previous}
        envelope = SignedEnvelope.sign(payload_type, canonical(linked), identity)
        previous = envelope.digest
        envelopes.append(envelope.as_json())
    return envelopes


def spec(unit="record", cohorts="poisson", *, rounds=4, clients=4, **changes):
    """Give parameters that are quick to account."""
    if unit == "record":
        kept = {"neighbouring": "add or remove one record", "sampling_rate": 0.25, "divisor": 16, "population": 64.0}
        kept |= {"steps_per_round": 3}
    else:
        secret = cohorts == "poisson"
        kept = {
            "neighbouring": "add or remove one client" if secret else "zero out one client",
            "divisor": clients // 2,
        }
        kept |= {"sampling_rate": 0.5 if secret else 1.0, "population": float(clients), "steps_per_round": 1}
    return PrivacySpec(
        **{"unit": unit, "epsilon": 20.0, "delta": 1e-5, "clip_norm": 1.0, "rounds": rounds} | kept | changes
    )


@dataclass
class World:
    """Who there is, and what they sign."""

    plan: PrivacyPlan
    clients: int = 4
    rounds: int = 4
    noise: str = "secure"
    run: str = "this-run"
    earlier: tuple = (0,)  # clients with an earlier run in their ledger
    older: SampledGaussian = OLDER  # its steps
    lost: tuple = ((2, 1),)  # (round, client) of a reservation whose update never arrived
    refused: tuple = ((3, 2),)  # asked, and it states that it did not train
    silent: tuple = ((4, 3),)  # asked, and gone ever since
    status: str = "completed"
    own: float = 50.0  # the budget that each client states
    sealed: bool = False  # whether what is sent is encrypted
    secagg: bool = False  # whether updates are masked
    configured: dict = field(default_factory=dict)  # of the transport
    turns: int = 0  # rounds after which a client is asked again, if not those of its plan
    mute: tuple = ()  # (round, client) of an update that is in the sum, whose sender did not answer the unmasking
    server: Identity = field(default_factory=Identity.generate)
    keys: dict = field(default_factory=dict)

    def __post_init__(self):
        self.keys = self.keys or {client: Identity.generate() for client in range(self.clients)}
        self.roster = Roster(
            server=self.server.public, clients={client: key.public for client, key in self.keys.items()}
        )

    @property
    def planned(self):
        return max(self.rounds, self.plan.spec.rounds)

    def cohort(self, number):
        """Give who is asked: all, or with correlated noise those whose turn it is."""
        correlation = self.plan.spec.correlation
        turns = 1 if correlation is None else self.turns or correlation.separation
        return [client for client in range(self.clients) if (client - number + 1) % turns == 0]

    @property
    def secret(self):
        return self.plan.spec.neighbouring == "add or remove one client"

    def entry(self, client, number, status, **changes):
        event = mechanism_of_plan(self.plan).reservation(self.plan)
        return {
            "dataset": digest("records", client),
            "run": self.run,
            "round": number,
            "plan": self.plan.digest,
            "model": digest(self.run, "model", number),
            "update": digest(self.run, "update", number, client) if status == "settled" else None,
            "event": event.as_data(),
            "unit": self.plan.spec.unit,
            "noise": self.noise,
            "status": status,
            "time": TIME,
            **changes,
        }

    def ledger(self, client):
        """Give the client's entries without their links."""
        old = {"run": "earlier-run", "plan": digest("another plan"), "model": digest("old")}
        old |= {"event": self.older.as_data()}
        entries = [self.entry(client, 9, "reserved", **old)] if client in self.earlier else []
        if self.secret:
            return [*entries, self.entry(client, 0, "reserved", model=digest("join"))]
        for number in range(1, self.rounds + 1):
            where = (number, client)
            if client in self.cohort(number) and where not in self.refused and where not in self.silent:
                entries.append(self.entry(client, number, "reserved"))
                if where not in self.lost:
                    entries.append(self.entry(client, number, "settled"))
        return entries

    def records(self, ledgers):
        """Give the server's records without their links, but for the end."""
        yield {
            "kind": "opened",
            "time": TIME,
            "run": self.run,
            "mode": self.plan.spec.unit,
            "config": config_digest(self.config),
            "plan": self.plan.as_data(),
            "noise": self.noise,
            "roster": self.roster.digest,
            "clients": self.clients,
            "rounds": self.planned,
            "fedtrain": "0.1.0",
        }
        missing = {*self.lost, *self.refused, *self.silent}
        settled = {client: places(ledger) for client, ledger in ledgers.items()}
        for number in range(1, self.rounds + 1):
            model = digest(self.run, "model", number)
            cohort = [] if self.secret else self.cohort(number)
            used = [client for client in cohort if (number, client) not in missing]
            updates = []
            for client in used:
                update = digest(self.run, "update", number, client)
                place, head = settled[client][update]
                updates.append({"client": client, "update": update, "sequence": place + 1, "head": head})
            asked = {"kind": "asked", "time": TIME, "round": number, "cohort": cohort, "model": model}
            yield {**asked, "sealed": self.sealed, "secagg": self.secagg}
            yield {
                "kind": "completed",
                "time": TIME,
                "round": number,
                "model": model,
                "updates": updates,
                "dropped": [{"client": client, "reason": "no answer"} for client in cohort if client not in used],
                "sealed": self.sealed,
                "secagg": self.summed(number, len(cohort)),
                "aggregate": digest("aggregate", number),
                "clip_norm": self.plan.spec.clip_norm,
            }

    def summed(self, number, cohort):
        """Give what the server records of secure aggregation in a round."""
        if not self.secagg:
            return None
        silent = [client for when, client in self.mute if when == number]
        bits = 16 if self.plan.spec.shares is None else self.plan.spec.shares.bits
        return {"threshold": cohort - 1, "neighbours": cohort - 1, "bits": bits, "silent": silent}

    @property
    def config(self):
        """Give the configuration that the plan is from, every field of it."""
        spec = self.plan.spec
        given = {
            "name": "An honest run",
            "seed": 1,
            "federation.clients": self.clients,
            "federation.rounds": self.planned,
            "federation.cohort": spec.divisor if spec.unit == "client" else self.clients * spec.rounds // self.planned,
            "privacy.mode": spec.unit,
            "privacy.noise": self.noise,
            "output.directory": "runs/a",
        }
        given |= {f"privacy.{name}": getattr(spec, name) for name in ("epsilon", "delta", "clip_norm")}
        if spec.unit == "record":
            given |= {"privacy.sampling_rate": spec.sampling_rate, "training.batch_size": spec.divisor}
            given |= {"training.local_steps": spec.steps_per_round}
        else:
            given["privacy.cohorts"] = "poisson" if self.secret else "capped"
        if spec.correlation is not None:
            given |= {"privacy.mechanism": "banded", "privacy.separation": spec.correlation.separation}
        if spec.rounds < self.planned:
            given["privacy.max_participations"] = spec.rounds
        if spec.adaptive is not None:
            given |= {"privacy.adaptive_clipping": True, "privacy.clipping_quantile": spec.adaptive.quantile}
            given |= {"privacy.clipping_rate": spec.adaptive.learning_rate}
            given |= {"privacy.clipping_noise": spec.adaptive.count_noise}
        if spec.shares is not None:
            given |= {"privacy.trust": "distributed", "privacy.colluders": spec.shares.colluders}
            given |= {"transport.secagg.threshold": spec.shares.threshold, "transport.secagg.bits": spec.shares.bits}
        given |= {f"transport.{key}": value for key, value in self.configured.items()}
        return to_flat(from_flat(given))

    def statement(self, client, ledger, **changes):
        """Sign that this is all; who fell silent did so before the round."""
        silent = [number for number, who in self.silent if who == client]
        content = {
            "run": self.run,
            "round": min(silent) - 1 if silent else self.rounds,
            "dataset": digest("records", client),
            "sequence": len(ledger),
            "head": sha256(line(ledger[-1])).hexdigest() if ledger else NOTHING,
            "epsilon": self.own,
            "delta": self.plan.spec.delta,
            "refusal": None,
            "time": TIME,
        }
        stated = Statement(**content | changes)
        return SignedEnvelope.sign(STATEMENT, stated.encode(), self.keys[client]).as_json()

    def report(self):
        """Give the report as plain JSON data, signed by all."""
        ledgers = {client: chain(ENTRY, self.ledger(client), key) for client, key in self.keys.items()}
        proof = {
            "roster": self.roster.as_json(),
            "record": chain(RECORD, self.records(ledgers), self.server),
            "ledgers": [
                {"client": client, "entries": entries, "statement": self.statement(client, entries)}
                for client, entries in ledgers.items()
            ],
        }
        return self.closed(self.claimed(proof))

    def closed(self, plain):
        """Sign the server's record again, with its end as the report is now."""
        records = [payload(envelope) for envelope in plain["proof"]["record"]]
        records = [record for record in records if record["kind"] != "closed"]
        end = {"kind": "closed", "time": TIME, "status": plain["status"], "rounds": plain["rounds"]}
        end["report"] = body_digest(Report.model_validate_json(json.dumps(plain)))
        return {**plain, "proof": {**plain["proof"], "record": chain(RECORD, [*records, end], self.server)}}

    def claimed(self, proof):
        """Claim what the proof gives, as an honest server does."""
        records = read_records([SignedEnvelope.from_json(entry) for entry in proof["record"]], self.server.public)
        ledgers = {ledger["client"]: self.known(**ledger) for ledger in proof["ledgers"]}
        rounds = max((record.round for record in records if record.kind == "completed"), default=0)
        privacy = derive_claim(from_flat(self.config), self.roster, records, ledgers, rounds=rounds)
        return {
            **self.body(),
            "privacy": privacy.model_dump(mode="json"),
            "round_log": self.log(records),
            "proof": proof,
        }

    def known(self, client, entries, statement):
        """Give a client's ledger and its statement as a server knows them."""
        envelopes = [SignedEnvelope.from_json(entry) for entry in entries]
        return ClientLedger(
            entries=read_chain(envelopes, self.keys[client].public),
            head=envelopes[-1].digest if envelopes else NOTHING,
            stated=Statement.model_validate(payload(statement)) if statement else None,
        )

    def log(self, records):
        asked = {record.round: record for record in records if record.kind == "asked"}
        return [
            {
                "round": record.round,
                "cohort": None if self.secret else list(asked[record.round].cohort),
                "completed": None if self.secret else [update.client for update in record.updates],
                "dropped": None if self.secret else [drop.model_dump() for drop in record.dropped],
                "sealed": record.sealed,
                "secagg": told_sum(record),
                "clip_norm": record.clip_norm,
                "learning_rate": 0.1,
                "seconds": 1.0,
            }
            for record in records
            if record.kind == "completed"
        ]

    def body(self):
        evaluation = {"round": self.rounds, "accuracy": 0.75}
        counts = {"train_records": 100 * self.clients, "histogram": [[50, 50]] * self.clients}
        return {
            "schema": SCHEMA,
            "fedtrain": "0.1.0",
            "name": "An honest run",
            "run": self.run,
            "created": TIME,
            "status": self.status,
            "reason": None if self.status == "completed" else "Ctrl-C",
            "rounds": self.rounds,
            "planned_rounds": self.planned,
            "seconds": 1.0,
            "config": self.config,
            "evaluation": {"final": evaluation, "best": evaluation, "history": [evaluation]},
            "data": {
                "kind": "table",
                "shape": [3],
                "classes": ["no", "yes"],
                "test_records": 10,
                "clients": self.clients,
                **(counts if self.noise == "seeded" else dict.fromkeys(counts)),
            },
            "model": {
                "parameters": 8,
                "final": {"file": "model-final.safetensors", "sha256": digest("f")},
                "best": None,
            },
            "software": {"python": "3.11"},
            "software_digests": {"fedtrain": digest("code")},
        }


def told_sum(record):
    """Give what the report says of secure aggregation in a round."""
    secagg = record.secagg
    if secagg is None:
        return None
    lost = {"lost_masking": len(record.dropped), "lost_unmasking": len(secagg.silent)}
    return {"threshold": secagg.threshold, "neighbours": secagg.neighbours, "bits": secagg.bits, **lost}


def mechanism(plan):
    spec = plan.spec
    names = ("sampling_rate", "clip_norm", "divisor", "population", "steps_per_round", "rounds")
    adaptive = spec.adaptive and {
        "quantile": spec.adaptive.quantile,
        "learning_rate": spec.adaptive.learning_rate,
        "count_noise": spec.adaptive.count_noise,
        "value_noise_multiplier": plan.value_noise_multiplier,
    }
    return {
        "name": "Gaussian" if spec.sampling_rate == 1 else "Poisson-sampled Gaussian",
        "noise_multiplier": plan.noise_multiplier,
        **{name: getattr(spec, name) for name in names},
        "adaptive_clipping": adaptive,
        "plan_digest": plan.digest,
        "plan": plan.as_data(),
    }


def parts(given):
    return [part.model_dump(mode="json") for part in given]


def record_world(**changes):
    return World(plan=PrivacyPlan(spec=spec(), noise_multiplier=2.0), **changes)


def shared_world(**changes):
    """Give a federation in record privacy whose clients share the noise."""
    shares = NoiseShares(members=4, threshold=3, colluders=1, bits=22, reach=16)
    plan = PrivacyPlan(spec=spec(steps_per_round=1, shares=shares), noise_multiplier=2.0, kind="skellam-shares")
    return World(plan=plan, **changes)


def client_world(cohorts="poisson", **changes):
    return World(plan=PrivacyPlan(spec=spec("client", cohorts), noise_multiplier=2.0), **changes)


def correlated_world(*, separation=2, **changes):
    correlation = Correlation.of(rounds=4, separation=separation)
    kept = {"rounds": correlation.most_participations, "divisor": 4 // separation, "correlation": correlation}
    plan = PrivacyPlan(spec=spec("client", "capped", **kept), noise_multiplier=2.0, kind=ClientBanded.plan_kind)
    return World(plan=plan, **changes)


def adaptive_world():
    adaptive = AdaptiveClipping(quantile=0.5, learning_rate=0.2, count_noise=4.0)
    return World(plan=PrivacyPlan(spec=spec("client", "capped", adaptive=adaptive), noise_multiplier=2.0))


def changed(plain, path, value):
    """Give a copy with one value at a dotted path replaced."""
    broken = copy.deepcopy(plain)
    *branches, leaf = [int(part) if part.isdigit() else part for part in path.split(".")]
    tree = broken
    for branch in branches:
        tree = tree[branch]
    tree[leaf] = value
    return broken


def edit_records(world, plain, edit):
    """Change the payloads of the server's record, and sign all again with the server's key."""
    records = [payload(envelope) for envelope in plain["proof"]["record"]]
    edit(records)
    return world.closed({**plain, "proof": {**plain["proof"], "record": chain(RECORD, records, world.server)}})
