"""Privacy plans made by hand."""

from fedtrain.privacy import PrivacyPlan, PrivacySpec


def capped_plan(clients, *, clip_norm, noise_multiplier, adaptive=None):
    spec = PrivacySpec(
        unit="client",
        neighbouring="zero out one client",
        epsilon=4.0,
        delta=1e-3,
        clip_norm=clip_norm,
        sampling_rate=1.0,
        divisor=clients,
        population=float(clients),
        steps_per_round=1,
        rounds=3,
        adaptive=adaptive,
    )
    return PrivacyPlan(spec=spec, noise_multiplier=noise_multiplier)


def plan_without_bound(records, *, steps, noise=1e-10):
    """Return a plan that clips nothing, with noise of a deviation that no budget allows. All records are drawn."""
    spec = PrivacySpec(
        unit="record",
        neighbouring="add or remove one record",
        epsilon=1.0,
        delta=1e-5,
        clip_norm=1e6,
        sampling_rate=1.0,
        divisor=records,
        population=float(records),
        steps_per_round=steps,
        rounds=1,
    )
    return PrivacyPlan(spec=spec, noise_multiplier=noise / 1e6)
