"""Keep a client's privacy account in Flower's ``Context.state``, which persists over the rounds."""

from flwr.app import ConfigRecord, RecordDict

from fedtrain.privacy import Account, Charge, SampledGaussian

_KEY = "fedtrain.account"


def load_account(state: RecordDict) -> Account:
    """Return the account in a client's state, empty if there is none."""
    record = state.config_records.get(_KEY)
    if record is None:
        return Account()
    columns = (record[name] for name in ("run", "round", "model", "sampling-rate", "noise-multiplier", "steps"))
    return Account(
        charges=tuple(
            Charge(
                run=run,
                round_number=round_number,
                model=model,
                event=SampledGaussian(sampling_rate=rate, noise_multiplier=noise, steps=steps),
            )
            for run, round_number, model, rate, noise, steps in zip(*columns, strict=True)
        )
    )


def store_account(state: RecordDict, account: Account) -> None:
    """Put the account into a client's state."""
    charges = account.charges
    state[_KEY] = ConfigRecord(
        {
            "run": [charge.run for charge in charges],
            "round": [charge.round_number for charge in charges],
            "model": [charge.model for charge in charges],
            "sampling-rate": [charge.event.sampling_rate for charge in charges],
            "noise-multiplier": [charge.event.noise_multiplier for charge in charges],
            "steps": [charge.event.steps for charge in charges],
        }
    )
