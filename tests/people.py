"""Records in the form of the census income data, drawn from a seed: no person is in them.

Income depends on education, hours, age, marriage and gains by a logistic model, so that a model can learn it.
"""

import numpy as np

WORKCLASSES = ("Private", "Self-emp-not-inc", "Local-gov", "State-gov")
EDUCATIONS = ("9th", "HS-grad", "Some-college", "Bachelors", "Masters", "Doctorate")
YEARS = (5, 9, 10, 13, 14, 16)
MARRIAGES = ("Married-civ-spouse", "Never-married", "Divorced")
OCCUPATIONS = ("Exec-managerial", "Prof-specialty", "Craft-repair", "Sales", "Other-service")
COUNTRIES = ("United-States", "Mexico", "Germany")


def records(count, seed):
    """Return rows of text, as adult.data has them."""
    draw = np.random.default_rng(seed)
    age = draw.integers(17, 80, count)
    education = draw.choice(len(EDUCATIONS), count, p=(0.1, 0.35, 0.25, 0.2, 0.07, 0.03))
    marriage = draw.choice(3, count, p=(0.47, 0.33, 0.2))
    occupation = draw.integers(0, 5, count)
    hours = np.clip(draw.normal(40, 11, count), 1, 99).round().astype(int)
    gain = np.where(draw.random(count) < 0.08, draw.integers(2000, 16000, count), 0)
    years = np.asarray(YEARS)[education]
    odds = (
        -3.4
        + 0.45 * (years - 10)
        + 0.035 * (age - 38)
        - 0.0012 * (age - 45) ** 2
        + 0.05 * (hours - 40)
        + 2.3 * (marriage == 0)
        + np.asarray((0.8, 0.6, 0.0, 0.1, -0.8))[occupation]
        + 0.0004 * gain
    )
    income = draw.random(count) < 1 / (1 + np.exp(-odds))
    for row in range(count):
        yield ", ".join(
            [
                str(age[row]),
                "?" if draw.random() < 0.05 else str(draw.choice(WORKCLASSES)),
                str(draw.integers(20_000, 400_000)),
                EDUCATIONS[education[row]],
                str(years[row]),
                MARRIAGES[marriage[row]],
                OCCUPATIONS[occupation[row]],
                "Husband" if marriage[row] == 0 else "Not-in-family",
                "White" if draw.random() < 0.8 else "Black",
                "Male" if draw.random() < 0.6 else "Female",
                str(gain[row]),
                "0",
                str(hours[row]),
                str(draw.choice(COUNTRIES, p=(0.9, 0.06, 0.04))),
                ">50K" if income[row] else "<=50K",
            ]
        )


def write(folder, *, train=2000, test=800, seed=0):
    """Write adult.data and adult.test, with the first line, the full stops and the empty line that those have."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "adult.data", folder / "adult.test"
    paths[0].write_text("\n".join([*records(train, seed), "", ""]))
    paths[1].write_text("\n".join(["|1x3 Cross validator", *(f"{row}." for row in records(test, seed + 1)), "", ""]))
    return paths
