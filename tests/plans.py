"""A privacy plan for whole clients whose cohorts are known."""

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
