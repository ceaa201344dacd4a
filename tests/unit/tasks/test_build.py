import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedtrain.config import TaskConfig
from fedtrain.data.types import ClassTarget, Columns, DataInfo, Image
from fedtrain.errors import DataError, TaskError
from fedtrain.tasks import build_task
from fedtrain.tasks.supervised import Tabular, Vision

ROOT = Path(__file__).parents[3]
IMAGES = DataInfo(features=Image(shape=(1, 8, 8)), target=ClassTarget(names=("a", "b")))
TABLE = DataInfo(features=Columns(shape=(5,)), target=ClassTarget(names=("a", "b")))


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(text):
        monkeypatch.delitem(sys.modules, "planted", raising=False)
        (tmp_path / "planted.py").write_text(textwrap.dedent(text))

    yield write
    sys.modules.pop("planted", None)


def test_the_built_in_tasks():
    assert isinstance(build_task(TaskConfig(), IMAGES), Vision)
    assert isinstance(build_task(TaskConfig(name="tabular"), TABLE), Tabular)


@pytest.mark.parametrize(
    ("name", "hint"), [("visoin", '; did you mean "vision"?'), ("tabula", '; did you mean "tabular"?'), ("zzz", ".")]
)
def test_an_unknown_task_is_refused_with_the_nearest(name, hint):
    with pytest.raises(TaskError) as refused:
        build_task(TaskConfig(name=name), IMAGES)
    assert str(refused.value) == (
        f'task.name = "{name}" is not known{hint} Allowed: "vision", "text", "language", "tabular", "speech", '
        '"regression", "multilabel", "statistics", or your own as "module:attribute".'
    )


def test_a_class_of_ones_own(module):
    module("""
        class Mine:
            def __init__(self, info): self.info = info
            def model(self): ...
            def collate(self, records, generator): ...
            def forward(self, model, batch): ...
            def losses(self, outputs, batch): ...
            def metrics(self): ...
            def shared(self, model): ...
    """)
    assert build_task(TaskConfig(name="planted:Mine"), IMAGES).info is IMAGES


@pytest.mark.parametrize(
    "name", ["planted:", ":build", "planted:build:more", "planted.py:build", "./planted:build", "a b:c"]
)
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(TaskError, match='not of the form "module:attribute"'):
        build_task(TaskConfig(name=name), IMAGES)


@pytest.mark.parametrize(("name", "missing"), [("no_such:build", "no_such"), ("json.no_such:build", "json.no_such")])
def test_a_module_that_does_not_exist(name, missing):
    with pytest.raises(TaskError, match=f'there is no module "{missing}" on Python\'s path'):
        build_task(TaskConfig(name=name), IMAGES)


def test_a_module_whose_own_import_is_missing(module):
    module("import no_such_dependency")
    with pytest.raises(TaskError, match='importing "planted" raised ModuleNotFoundError: No module named'):
        build_task(TaskConfig(name="planted:build"), IMAGES)


def test_a_module_with_a_mistake(module):
    module("def build(:")
    with pytest.raises(TaskError, match='importing "planted" raised SyntaxError'):
        build_task(TaskConfig(name="planted:build"), IMAGES)


def test_an_attribute_that_does_not_exist(module):
    module("""
        from json import loads
        def build(info): ...
        class Mine: ...
    """)
    with pytest.raises(TaskError, match=r'the module "planted" has no "biuld"; it defines: build, Mine\.$'):
        build_task(TaskConfig(name="planted:biuld"), IMAGES)


def test_an_attribute_that_cannot_be_called(module):
    module("build = 3")
    with pytest.raises(TaskError, match="is of type int, which cannot be called"):
        build_task(TaskConfig(name="planted:build"), IMAGES)


METHODS = ("model", "collate", "forward", "losses", "metrics", "shared")


@pytest.mark.parametrize("absent", METHODS)
def test_a_task_without_a_method(module, absent):
    methods = "".join(f"    {name} = print\n" for name in METHODS if name != absent)
    module("class Mine:\n    def __init__(self, info): ...\n" + methods)
    with pytest.raises(TaskError, match=f"of type Mine without the method {absent}; a task has the methods"):
        build_task(TaskConfig(name="planted:Mine"), IMAGES)


def test_a_task_with_a_mean_loss_is_told_what_to_write(module):
    module("""
        class Mine:
            def __init__(self, info): ...
            def model(self): ...
            def encode(self, features, generator): ...
            def loss(self, outputs, labels): ...
            def metrics(self): ...
    """)
    with pytest.raises(TaskError, match="of type Mine with encode and loss") as refused:
        build_task(TaskConfig(name="planted:Mine"), IMAGES)
    for line in ("def collate(self, records, generator):", "def losses(self, outputs, batch):", 'reduction="none"'):
        assert line in str(refused.value)


def test_a_task_that_inherits_has_forward_and_shared(module):
    module("""
        from fedtrain.tasks import Task
        class Mine(Task):
            def __init__(self, info): ...
            def model(self): ...
            def collate(self, records, generator): ...
            def losses(self, outputs, batch): ...
            def metrics(self): ...
        class Half(Task):
            def __init__(self, info): ...
            def model(self): ...
    """)
    assert build_task(TaskConfig(name="planted:Mine"), IMAGES)
    with pytest.raises(TaskError, match=r"raised TypeError: .*abstract.* collate, losses, metrics|'collate'"):
        build_task(TaskConfig(name="planted:Half"), IMAGES)


def test_a_factory_that_returns_nothing(module):
    module("def build(info): ...")
    with pytest.raises(
        TaskError, match="of type NoneType without the method model, collate, forward, losses, metrics, shared;"
    ):
        build_task(TaskConfig(name="planted:build"), IMAGES)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("raise KeyError('size')", "KeyError: 'size'"),
        ("raise ValueError", "DataInfo, raised ValueError .planted.py, line 1"),
    ],
)
def test_a_factory_that_raises(module, line, shown):
    module(f"def build(info): {line}")
    with pytest.raises(TaskError, match=shown):
        build_task(TaskConfig(name="planted:build"), IMAGES)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("def build(info)\n    return None", r"SyntaxError: expected ':' \(planted.py, line 1\)"),
        ("import torch\ntorch.nothing", r"no attribute 'nothing' \(planted.py, line 2\)"),
        ("import sys\nsys.exit(1)", r"SystemExit: 1 \(planted.py, line 2\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_line(module, body, shown):
    module(body)
    with pytest.raises(TaskError, match=f'importing "planted" raised .*{shown}'):
        build_task(TaskConfig(name="planted:build"), IMAGES)


def test_a_file_with_the_name_of_a_module_of_pythons_is_told_to_be_passed_over(tmp_path, monkeypatch):
    (tmp_path / "statistics.py").write_text("def build(info): ...")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=r"Python has a module of that name itself, and .*statistics.py is passed over"):
        build_task(TaskConfig(name="statistics:build"), IMAGES)


def test_the_factorys_own_refusal_is_kept(module):
    module("""
        from fedtrain.errors import DataError
        def build(info): raise DataError("three channels, please")
    """)
    with pytest.raises(DataError, match=r"^three channels, please$"):
        build_task(TaskConfig(name="planted:build"), IMAGES)


@pytest.mark.parametrize("setting", [{"model": "mlp"}, {"augment": True}])
def test_settings_that_an_own_task_would_not_see_are_refused(setting):
    with pytest.raises(TaskError, match=f"unset task.{next(iter(setting))}"):
        build_task(TaskConfig(name="planted:build", **setting), IMAGES)


def test_building_training_and_measuring_classes_never_import_torchmetrics():
    script = """
        import sys
        import torch
        from fedtrain.config import TaskConfig
        from fedtrain.data.types import ClassTarget, Columns, DataInfo, Image
        from fedtrain.tasks import build_task
        task = build_task(TaskConfig(), DataInfo(features=Image(shape=(1, 8, 8)), target=ClassTarget(names=("a", "b"))))
        model, metrics = task.model(), task.metrics()
        metrics.update(model(torch.zeros(2, 1, 8, 8)), {"targets": torch.tensor([0, 1])})
        assert metrics.compute()["records"] == 2
        assert "torchmetrics" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT)


def test_the_guide_shows_the_example_file_as_it_is():
    guide = (ROOT / "docs/how-to/own-task.md").read_text(encoding="utf-8")
    example = (ROOT / "docs/examples/own_task.py").read_text(encoding="utf-8")
    assert guide.split("```python\n")[1].split("```")[0] == example
