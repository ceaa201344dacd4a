import os
from pathlib import Path

import pytest

from fedtrain.config import Data, Experiment, from_flat, parse_settings, read_toml, to_flat
from fedtrain.config.loading import config_digest
from fedtrain.errors import ConfigError

ROOT = Path(__file__).parents[3]
RECORD = {"privacy.mode": "record", "privacy.sampling_rate": 0.1}
CLIENT = {"privacy.mode": "client"}
CAPPED = {**CLIENT, "privacy.cohorts": "capped"}
PARQUET = {"data.source": "parquet", "data.path": "x", "data.test_fraction": 0.5}
SOUND = {"data.sample_rate": 8000, "data.seconds": 1.0}
BANDED = {**CAPPED, "privacy.mechanism": "banded", "privacy.separation": 2}


def test_defaults_survive_the_round_trip_through_flat():
    assert from_flat(to_flat(Experiment())) == Experiment()


@pytest.mark.parametrize("file", sorted((ROOT / "simulations").glob("*.toml")), ids=lambda file: file.name)
def test_every_published_simulation_is_valid(file):
    from_flat(read_toml(file))


def test_settings_are_read_as_toml_and_otherwise_as_strings():
    settings = ["privacy.epsilon=4", "task.model=cnn-small", "task.augment=true", 'name="a b"', "data.path=a=b"]
    assert parse_settings(settings) == {
        "privacy.epsilon": 4,
        "task.model": "cnn-small",
        "task.augment": True,
        "name": "a b",
        "data.path": "a=b",
    }


@pytest.mark.parametrize("setting", ["privacy.epsilon", "=4", ""])
def test_a_setting_without_key_or_value_is_refused(setting):
    with pytest.raises(ConfigError, match="write it as key=value"):
        parse_settings([setting])


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"privacy.epsilom": 4}, "unknown key privacy.epsilom .its value is 4.; did you mean privacy.epsilon"),
        ({"epsilon": 4}, "did you mean privacy.epsilon"),
        ({"privacy": 4}, "unknown key privacy "),
        ({"training.learning_rate": "fast"}, "training.learning_rate = 'fast': input should be a valid number"),
        ({"federation.rounds": 1.5}, "federation.rounds = 1.5: input should be a valid integer"),
        ({"federation.rounds": True}, "federation.rounds = True: input should be a valid integer"),
        ({"federation.rounds": ""}, "federation.rounds = ''"),
        ({"federation.clients": 0}, "federation.clients = 0: input should be greater than or equal to 1"),
        ({"privacy.delta": 1.0}, "privacy.delta = 1.0: input should be less than 1"),
        ({"privacy.epsilon": float("nan")}, "privacy.epsilon = nan"),
        ({"server.strategy": "FedAvgg"}, "server.strategy = 'FedAvgg': input should be 'FedAvg'"),
        ({"federation.cohort": 20}, "cohort = 20 is more than clients = 10"),
        ({"federation.min_results": 11}, "min_results = 11 is more than cohort = 10"),
        ({"data.source": "parquet"}, "path is not set"),
        ({"data.source": "parquet", "data.path": "x"}, "there is no test data"),
        ({"data.source": "hub"}, "dataset is not set"),
        (
            {"data.source": "sounds", "data.path": "x", "data.test_fraction": 0.5},
            'source = "sounds" is for sounds, and',
        ),
        ({**PARQUET, "data.resample": True}, "resample is for sounds, and sample_rate, .* is not set"),
        ({**PARQUET, "data.mix_down": True}, "mix_down is for sounds"),
        ({**PARQUET, "data.seconds": 1.0}, "seconds is for sounds"),
        ({**PARQUET, "data.audio_column": "a"}, "audio_column is for sounds"),
        ({**PARQUET, "data.sample_rate": 8000}, "seconds is not set, or is less than one sample"),
        ({**PARQUET, "data.sample_rate": 8000, "data.seconds": 1e-5}, "seconds is not set, or is less than one sample"),
        ({**PARQUET, "data.sample_rate": 8000, "data.seconds": 601.0}, "less than or equal to 600"),
        ({**PARQUET, **SOUND, "data.image_column": "a"}, "sample_rate and image_column are both set"),
        ({**PARQUET, **SOUND, "data.feature_columns": "a"}, "sample_rate and feature_columns are both set"),
        ({**SOUND, "data.source": "digits"}, 'sample_rate makes records sounds, and source = "digits" reads none'),
        ({"data.test_path": "x", "data.test_fraction": 0.5}, "both set"),
        ({"data.classes": "a,,b"}, "has an empty name, or one twice"),
        ({"data.classes": "a, b,a"}, "has an empty name, or one twice"),
        ({"data.partition.kind": "natural"}, "partition.column is not set"),
        ({"training.local_epochs": 1.0, "training.local_steps": 5}, "both set"),
        ({"privacy.mode": "record"}, "privacy.sampling_rate is not set"),
        ({"server.strategy": "FedAvg", "server.parameters.eta": 0.1}, "FedAvg does not take eta; it takes: none"),
        (
            {"server.strategy": "QFedAvg", "privacy.mode": "record", "privacy.sampling_rate": 0.1},
            "raw losses",
        ),
        (
            {"privacy.mode": "record", "privacy.sampling_rate": 0.1, "privacy.max_participations": 9},
            "max_participations = 9 of 10 clients is less than federation.rounds = 10 of .*; at least 10",
        ),
        ({**CAPPED, "privacy.max_participations": 4, "federation.cohort": 5}, "at least 5 is allowed"),
        ({**CLIENT, "privacy.sampling_rate": 0.5, "federation.cohort": 4}, "federation.cohort / .* = 0.4"),
        ({**CLIENT, "privacy.max_participations": 10}, 'set privacy.cohorts = "capped"'),
        ({**CLIENT, "federation.min_results": 2}, "min_results = 2 is not allowed .* leave it at 1"),
        ({**CAPPED, "privacy.separation": 3}, 'separation = 3 is for mechanism = "banded", and it is "gaussian"'),
        ({**CAPPED, "privacy.separation": 1}, "privacy.separation = 1: input should be greater than or equal to 2"),
        ({**CLIENT, "privacy.mechanism": "banded"}, 'is for mode = "client" with .*, and they are "client" and "poi'),
        ({**RECORD, "privacy.mechanism": "banded"}, 'they are "record" and "poisson"'),
        ({**CAPPED, "privacy.mechanism": "banded"}, "needs separation: the rounds from one participation"),
        ({**BANDED, "privacy.trust": "distributed"}, "is for noise that the server adds, and trust = .distributed"),
        (
            {**CLIENT, "federation.retries": 1},
            "retries = 1 is not for secret cohorts: that a round is asked again tells",
        ),
        ({**BANDED, "federation.retries": 1}, 'retries = 1 is not for privacy.mechanism = "banded": the noise relies'),
        (
            {**RECORD, "privacy.noise": "secure", "federation.retries": 1, "privacy.max_participations": 10},
            "retries = 1, and the noise leaves no room for it: .* Set privacy.max_participations to 11 or more",
        ),
        (
            {
                **RECORD,
                "privacy.noise": "secure",
                "federation.retries": 1,
                "federation.cohort": 5,
                "privacy.max_participations": 5,
            },
            "no room for it: 10 rounds of 5 clients .* Set privacy.max_participations to 6 or more",
        ),
        ({**BANDED, "privacy.adaptive_clipping": True}, 'adaptive_clipping = true is not for mechanism = "banded"'),
        ({"privacy.adaptive_clipping": True}, "adaptive_clipping = true is for .*client.*, and it is .none"),
        ({**RECORD, "privacy.adaptive_clipping": True}, "adaptive_clipping = true is for .*client.*record"),
        ({**CLIENT, "training.physical_batch_size": 8}, "physical_batch_size is for .*record.*client"),
        ({"training.physical_batch_size": 8}, "physical_batch_size is for .*record.*none"),
        ({**CLIENT, "training.augmentations": 2}, "augmentations = 2 is for .*record.*client"),
        ({**CLIENT, "training.stacked": 2}, "stacked = 2 is for .*none.*, and it is .client"),
        ({**RECORD, "training.stacked": 2}, "rounded would depend on the clients that train beside it"),
        ({"training.stacked": 65}, r"training\.stacked"),
        ({"training.augmentations": 2}, "augmentations = 2 is for .*record.*none"),
        ({**RECORD, "training.augmentations": 2}, "so many equal views of each record; set task.augment"),
        ({**RECORD, "training.augmentations": 2, "task.name": "tabular"}, "equal views"),
    ],
)
def test_each_problem_names_the_field_the_value_and_what_is_allowed(flat, message):
    with pytest.raises(ConfigError, match=message):
        from_flat(flat)


@pytest.mark.parametrize("strategy", ["FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan", "QFedAvg"])
def test_client_privacy_refuses_strategies_that_need_more_than_the_sum(strategy):
    with pytest.raises(ConfigError, match=f'"{strategy}" needs single updates or losses.*allowed: FedAdagrad, FedAdam'):
        from_flat({**CLIENT, "server.strategy": strategy})


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "FedProx"])
def test_client_privacy_takes_strategies_of_the_sum(strategy):
    assert from_flat({**CLIENT, "server.strategy": strategy}).server.strategy == strategy


@pytest.mark.parametrize(
    "flat",
    [
        {**CLIENT, "privacy.adaptive_clipping": True, "federation.cohort": 3},
        {**CAPPED, "privacy.max_participations": 5, "federation.cohort": 5, "federation.min_results": 5},
        BANDED,
        {**RECORD, "training.augmentations": 4, "training.physical_batch_size": 8, "task.augment": True},
        {**RECORD, "training.augmentations": 4, "task.name": "mine:task"},
    ],
)
def test_what_the_modes_allow(flat):
    from_flat(flat)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"task.encoder": "own:build"}, 'encoder = "own:build" has no declared origin: say in encoder_origin'),
        (
            {"task.encoder": "scatter"},
            'encoder = "scatter" is not known; allowed: "scattering", "log-mel", "words", "bytes", "minilm"',
        ),
        ({"task.encoder": "scattering", "task.encoder_origin": "mine"}, 'the origin of "scattering" is known; unset'),
        ({"task.encoder_origin": "mine"}, "encoder_origin is set, and encoder is not"),
        ({"task.encoder_digest": "0" * 64}, "encoder_digest is set, and encoder is not"),
        ({"task.encoder": "scattering", "task.encoder_digest": "0"}, "task.encoder_digest = '0'"),
        ({"task.encoder": "scattering", "task.augment": True}, "features of a record are computed once"),
    ],
)
def test_an_encoder_has_one_declared_origin_and_unchanging_records(flat, message):
    with pytest.raises(ConfigError, match=message):
        from_flat(flat)


def test_an_encoder_has_the_origin_that_is_declared_or_known():
    assert from_flat({}).task.origin is None
    for own in ("own:build", "words.json"):
        assert from_flat({"task.encoder": own, "task.encoder_origin": "a book"}).task.origin == "a book"
    assert from_flat({"task.encoder": "scattering"}).task.origin.startswith("no records at all")


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        from_flat({"federation.clients": 0, "training.learning_rate": -1.0})
    assert "federation.clients" in str(caught.value)
    assert "training.learning_rate" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*missing.toml: No such file"):
        read_toml(tmp_path / "missing.toml")


@pytest.mark.parametrize(("text", "message"), [("a = ", "is not TOML"), ("a = [1]", "a = .1. is not allowed")])
def test_a_file_that_cannot_be_used_is_refused(tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_toml(tmp_path / "bad.toml")


def digest(change):
    return config_digest(to_flat(from_flat(change)))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"privacy.clip_norm": 2.0}, {"data.test_fraction": 0.3}, {"device": "cpu"}]
)
def test_what_determines_results_changes_the_digest(change):
    assert digest(change) != digest({})


@pytest.mark.parametrize("change", [{"output.directory": "x"}, {"output.resume": True}, {"data.cache": "x"}])
def test_presentation_does_not(change):
    assert digest(change) == digest({})


def test_fields_that_came_later_leave_the_digest_of_those_who_do_not_use_them():
    # As fedtrain computed it before any of the fields that came later was there.
    assert digest({}) == "0f6898a2952bb6a0cf795d0b062465adbafdd4cda5abdd83e17cceae499e2b68"
    later = {"data.source": "npz", "data.path": "x", "data.test_fraction": 0.2, "task.name": "regression"}
    assert digest(later | {"data.target": "number"}) != digest(later)
    assert digest(BANDED) != digest(BANDED | {"privacy.separation": 3})


def written(tmp_path, content):
    file = tmp_path / "experiment.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_a_byte_order_mark_is_passed_over(tmp_path):
    assert Experiment.load(written(tmp_path, '\ufeffname = "Größe"')).name == "Größe"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('name = "x"'.encode("utf-16"), "it is in UTF-16 or UTF-32; save it as UTF-8"),
        ('name = "x"'.encode("utf-16-le"), "it is in UTF-16 or UTF-32"),
        (
            'seed = 1\nname = "Größe"'.encode("latin-1"),
            r"line 2 has a byte that is not UTF-8 \(0xf6\); save it as UTF-8",
        ),
        ('[data]\npath = "C:\\data\\x"', r"at line 2, .*a Windows path in single quotes .*or with forward slashes"),
        ("name = “demo”", "the quotes are typographic"),
        ("[task]\naugment = True", "write true and false in small letters"),
        ("seed = None", 'leave an unset field out, or set it to ""'),
        ("name = demo", "write text in quotes"),
        ("name = 1 2", r"Expected newline .*\(at line 1, column 10\)$"),
        ("a = " + "[" * 5000, "it is nested too deeply"),
    ],
)
def test_what_is_not_toml_is_refused_with_what_to_write(tmp_path, content, message):
    with pytest.raises(ConfigError, match=rf"experiment.toml is not TOML: .*{message}"):
        Experiment.load(written(tmp_path, content))


@pytest.mark.parametrize("field", ["path", "test_path", "cache"])
def test_a_path_whose_backslashes_were_escapes_is_refused(tmp_path, field):
    with pytest.raises(ConfigError, match=rf"data.{field}: 'C:\\new\\table' holds a tab, .*in single quotes"):
        Experiment.load(written(tmp_path, f'[data]\n{field} = "C:\\new\\table"'))


@pytest.mark.parametrize("field", ["data.path", "data.cache", "output.directory", "federation.sites"])
def test_a_path_with_a_name_that_no_file_can_have_is_refused(field):
    from_flat({field: "é" * 127 + "/" + "x" * 255, "data.test_fraction": 0.5})
    with pytest.raises(ConfigError, match=rf"{field}: no file has a name of more than 255 bytes, as 'éé.*\.\.\. has"):
        from_flat({field: "runs/" + "é" * 128, "data.test_fraction": 0.5})


@pytest.mark.parametrize(
    "field", ["name", "output.directory", "data.path", "data.classes", "task.name", "report.operator"]
)
def test_bytes_that_are_not_utf8_are_refused_by_field(field):
    """A name in Latin-1 on a command line. The settings and the report are written in UTF-8."""
    value = os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigError, match=rf"{field}: 'caf\\udce9' is not UTF-8"):
        from_flat({field: value})


def test_a_name_that_a_terminal_would_obey_is_refused():
    with pytest.raises(ConfigError, match=r"name: '\\x1b\[31m' holds a tab, a line break or the like"):
        from_flat({"name": "\x1b[31m"})


def test_a_list_of_names_is_the_string_with_commas(tmp_path):
    lists = '[data]\nclasses = ["no", "yes"]\nfeature_columns = ["age", "gene 1"]'
    data = Experiment.load(written(tmp_path, lists)).data
    assert (data.classes, data.class_names, data.feature_columns) == ("no, yes", ("no", "yes"), "age, gene 1")
    assert Experiment.from_dict({"data": {"classes": ("no", "yes")}}).data.classes == "no, yes"
    assert from_flat(parse_settings(['data.classes=["no","yes"]'])).data.classes == "no, yes"
    assert from_flat(parse_settings(["data.classes=no,yes"])).data.class_names == ("no", "yes")
    assert Data(classes=[0, True]).class_names == ("0", "true")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('["a,b"]', r"data.classes = \['a,b'\]: a name cannot be empty, hold a comma"),
        ('["a", ""]', "a name cannot be empty"),
        ('[" a"]', "begin or end with a space"),
        ("[0.5]", "0.5 is no name"),
        ('[["a"]]', r"\['a'\] is no name"),
        ("[]", "the list is empty; leave the field out"),
        ("[a,b]", "commas separate the names, without brackets"),
    ],
)
def test_a_list_that_names_nothing_is_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        from_flat(parse_settings([f"data.classes={value}"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[data]\npath = ["a", "b"]', r"data.path = \['a', 'b'\] .*a pattern such as"),
        ('name = ["a"]', "one value, without brackets; those that take a list are data.classes"),
        ('[[data]]\npath = "a"', r"write the section once, as \[data\] and not \[\[data\]\]"),
        ("name = 2026-01-01", "a date is a string in quotes"),
    ],
)
def test_a_list_or_date_where_one_value_is_meant_is_refused(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.load(written(tmp_path, content))


@pytest.mark.parametrize(
    ("setting", "message"), [('data.path="C:\\data"', "leave the quotes out"), ("name='a", "quotes")]
)
def test_a_setting_in_quotes_that_is_not_toml_is_refused(setting, message):
    with pytest.raises(ConfigError, match=rf"cannot read the setting .*what is in quotes is not TOML: .*{message}"):
        parse_settings([setting])


def test_a_path_of_a_program_is_a_path(tmp_path):
    experiment = Experiment.from_dict({"output.directory": tmp_path, "data": {"cache": tmp_path / "cache"}})
    assert (experiment.output.directory, experiment.data.cache) == (str(tmp_path), str(tmp_path / "cache"))
    assert Data(cache=tmp_path).cache == str(tmp_path)
