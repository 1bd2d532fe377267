"""Options: given by command line, environment or TOML file, and checked before anything runs."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

import disttrain
from disttrain.cli import main
from disttrain.config import TrainConfig, default_cache_dir
from disttrain.config.loading import build_parser, load
from disttrain.data.csv.dialect import Dialect
from disttrain.errors import UsageError
from disttrain.synthetic.command import MakeDataConfig

ROOT = Path(__file__).resolve().parent.parent


def options(*arguments, settings=TrainConfig, **environ):
    return load(settings, build_parser(settings, "disttrain", ""), list(map(str, arguments)), environ)


def refusal(*arguments, **keywords):
    with pytest.raises(UsageError) as caught:
        options(*arguments, **keywords)
    return str(caught.value)


def toml(directory, text):
    path = directory / "job.toml"
    path.write_text(text)
    return path


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_defaults(tmp_path):
    path = toml(tmp_path, "batch_size = 30\nepochs = 3\nseed = 9\n")
    found = options("--batch-size", 10, "--config", path, DISTTRAIN_BATCH_SIZE="20", DISTTRAIN_EPOCHS="2")
    assert (found.batch_size, found.epochs, found.seed, found.loss) == (10, 2, 9, "mae")


def test_the_environment_may_name_the_file(tmp_path):
    assert options(DISTTRAIN_CONFIG=str(toml(tmp_path, "epochs = 3"))).epochs == 3


def test_an_empty_variable_is_as_good_as_none_and_foreign_ones_are_left_alone():
    assert options(DISTTRAIN_EPOCHS="", DISTTRAIN_SERVICE_HOST="10.0.0.1", EPOCHS="7").epochs == 10


@pytest.mark.parametrize("settings", [TrainConfig, MakeDataConfig])
def test_every_option_has_a_description_and_a_group_and_stands_in_the_help(settings):
    text = " ".join(build_parser(settings, "disttrain", "").format_help().split())
    for name, field in settings.model_fields.items():
        assert field.description, name
        assert field.json_schema_extra.get("group") or field.json_schema_extra.get("positional"), name
        assert " ".join(field.description.split()) in text, name
        assert (f"--{name.replace('_', '-')} " if "group" in field.json_schema_extra else name.upper()) in text, name


# a value for each option that takes no number, unlike its default
SAMPLES = {
    "data": "a.csv",
    "targets": "y",
    "validation_data": "v.csv",
    "validation_split": "0.1",
    "max_bad_fraction": "0.5",
    "on_bad_row": "skip",
    "header": "no",
    "delimiter": ";",
    "decimal": ",",
    "thousands": "'",
    "comment": "#",
    "encoding": "latin-1",
    "model": "m:f",
    "hidden": "4,2",
    "loss": "mse",
    "metrics": "mae",
    "optimizer": "sgd",
    "task": "binary",
    "shuffle": "shard",
    "backend": "local",
    "precision": "mixed_bfloat16",
    "compression": "fp16",
    "collective": "compiled",
    "class_weights": "balanced",
    "kinds": "zip=category",
    "scale": "minmax",
    "missing": "median",
    "decay": "cosine",
    "callbacks": "m:f",
    "output": "out",
    "cache": "rows",
    "cache_dir": "cache",
    "on_nonfinite": "skip",
    "keep_best": "val_r2:max",
    "resume": "runs/a",
}
# options that are valid only beside another one
BESIDE = {"cache_limit": ("--cache", "rows"), "warmup_epochs": ("--scale-lr",)}


@pytest.mark.parametrize("settings", [TrainConfig, MakeDataConfig])
def test_every_option_can_be_given_by_flag_and_by_variable(settings):
    switches = {name for name, field in settings.model_fields.items() if field.annotation is bool}
    for name in sorted(set(settings.model_fields) - {"file"} - switches):
        rest = [*(["a.csv"] if settings is MakeDataConfig else []), *BESIDE.get(name, ())]
        value = SAMPLES.get(name, "7")
        by_flag = options(*rest, "--" + name.replace("_", "-"), value, settings=settings)
        by_variable = options(*rest, settings=settings, **{f"DISTTRAIN_{name.upper()}": value})
        assert by_flag == by_variable, name
        assert getattr(by_flag, name) != settings.model_fields[name].default, name


def test_a_switch_is_a_flag_alone_and_a_word_elsewhere(tmp_path):
    assert options("--overwrite").overwrite
    assert options(DISTTRAIN_OVERWRITE="true").overwrite
    assert options("--config", toml(tmp_path, "overwrite = true")).overwrite
    assert not options("--config", toml(tmp_path, "overwrite = true"), DISTTRAIN_OVERWRITE="0").overwrite


# arguments, environment, TOML text, words of the message: where the value came from, what stood there, what is wrong
REFUSED = {
    "too small a number": (["--batch-size", "0"], {}, "", ["--batch-size", "'0'", "greater than or equal to 1"]),
    "no number": (["--epochs", "many"], {}, "", ["--epochs", "'many'", "integer"]),
    "a broken number": (["--epochs", "2.5"], {}, "", ["--epochs", "2.5", "integer"]),
    "an endless number": (["--epochs", "1e999"], {}, "", ["--epochs", "'1e999'", "integer"]),
    "no learning rate": (["--learning-rate", "nan"], {}, "", ["--learning-rate", "'nan'", "finite"]),
    "a layer without units": (["--hidden", "16,0"], {}, "", ["--hidden", "'0'", "greater than or equal to 1"]),
    "a number from the environment": ([], {"DISTTRAIN_EPOCHS": "-1"}, "", ["DISTTRAIN_EPOCHS", "'-1'"]),
    "a switch from the environment": ([], {"DISTTRAIN_OVERWRITE": "maybe"}, "", ["DISTTRAIN_OVERWRITE", "'maybe'"]),
    "a choice from the environment": ([], {"DISTTRAIN_HEADER": "x"}, "", ["DISTTRAIN_HEADER", "'auto', 'yes' or 'no'"]),
    "a number from the file": ([], {}, "seed = -1", ["seed in ", "job.toml", "-1", "greater than or equal to 0"]),
    "a switch where a number belongs": ([], {}, "epochs = true", ["epochs in ", "True", "not true or false"]),
    "a number where a switch belongs": ([], {}, "overwrite = 2", ["overwrite in ", "2"]),
    "a number where words belong": ([], {}, "features = 3", ["features in ", "3"]),
    "an unknown key, nearly right": ([], {}, "batchsize = 3", ["job.toml", "'batchsize'", "did you mean batch_size?"]),
    "an unknown key": ([], {}, "zzz = 3", ["job.toml", "'zzz'", "the options are data, header"]),
    "no TOML": ([], {}, "epochs: 3", ["job.toml", "not a TOML file", "line 1"]),
    "an unknown flag": (["--epoch", "3"], {}, "", ["--epoch", "--help"]),
    "an unknown choice": (["--backend", "mpi"], {}, "", ["--backend", "'mpi'", "local", "horovod"]),
    "a flag without its value": (["--epochs"], {}, "", ["--epochs", "expected one argument"]),
    "a stray word": (["five.csv"], {}, "", ["five.csv"]),
    "no file of options": (["--config", "no-such.toml"], {}, "", ["no-such.toml", "No such file"]),
    "two delimiters": (["--delimiter", ";;"], {}, "", ["--delimiter", "';;'", "one ASCII character"]),
    "no delimiter": (["--delimiter", ""], {}, "", ["--delimiter", "''", "one ASCII character"]),
    "a delimiter that numbers hold": (["--delimiter", "."], {}, "", ["--delimiter", "'.'", "one ASCII character"]),
    "a column for two purposes": (
        ["--features", "x,y", "--targets", "y"],
        {},
        "",
        ["y", "both a feature and a target"],
    ),
    "a column named twice": (["--features", "x,x"], {}, "", ["features", "twice"]),
    "a model without a function": (["--model", "pack.age"], {}, "", ["--model", "package.module:function"]),
    "a model that is a path": (["--model", "a/b.py:f"], {}, "", ["--model", "package.module:function"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_value_is_named_with_its_origin(tmp_path, name):
    arguments, environ, text, words = REFUSED[name]
    if text:
        arguments = [*arguments, "--config", str(toml(tmp_path, text))]
    message = refusal(*arguments, **environ)
    assert [word for word in words if word not in message] == [], message
    assert len(message.splitlines()) == 1, message


def test_every_bad_value_is_told_at_once():
    assert len(refusal("--batch-size", 0, "--epochs", 0).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "number"),
    [("500e6", 500_000_000), ("5e8", 500_000_000), ("1000", 1000), ("2.5e3", 2500), ("1_000_000", 1_000_000)],
)
def test_counts_may_be_written_as_powers_of_ten(text, number):
    assert options("f.csv", "--rows", text, settings=MakeDataConfig).rows == number


def test_counts_in_a_toml_file_may_be_powers_of_ten(tmp_path):
    path = toml(tmp_path, "rows = 5e8")
    assert options("f.csv", "--config", path, settings=MakeDataConfig).rows == 500_000_000


# what is given, what it means
LISTS = {
    "one": ("x", ("x",)),
    "several": ("x1,x2", ("x1", "x2")),
    "with blanks": (" x1, x2 ,", ("x1", "x2")),
    "blank inside a name": ("first name,y", ("first name", "y")),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_words_between_commas(tmp_path, name):
    text, words = LISTS[name]
    assert options("--features", text).features == words
    assert options(DISTTRAIN_FEATURES=text).features == words
    assert options("--config", toml(tmp_path, f"features = {list(words)}")).features == words
    assert options("--config", toml(tmp_path, f"features = {text!r}")).features == words


def test_a_network_without_hidden_layers_is_an_empty_list():
    assert options("--hidden", "").hidden == ()


@pytest.mark.parametrize(("text", "byte"), [(";", ";"), ("|", "|"), ("\\t", "\t"), ("\t", "\t"), (",", ",")])
def test_a_delimiter_is_one_plain_character(text, byte):
    assert options("--delimiter", text).delimiter == byte


def test_options_and_dialects_agree_on_what_can_delimit():
    def is_refused(judge, delimiter):
        try:
            judge(delimiter)
        except UsageError:
            return True
        return False

    for delimiter in [*map(chr, range(256)), "", ",,"]:
        by_options = is_refused(lambda one: options(f"--delimiter={one}"), delimiter)
        assert by_options == is_refused(Dialect, delimiter), delimiter


def test_the_address_of_a_file_to_make_is_kept_as_it_was_given():
    assert options("s3://bucket//x.csv", settings=MakeDataConfig).file == "s3://bucket//x.csv"


@pytest.mark.parametrize("name", ["cache", "cache_dir", "checkpoint_dir", "output", "resume"])
def test_a_tilde_is_the_home_directory_however_a_place_is_given(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    toml(tmp_path, f'{name} = "~/place"')
    given = [
        options(f"--{name.replace('_', '-')}=~/place"),
        options(**{f"DISTTRAIN_{name.upper()}": "~/place"}),
        options("--config=~/job.toml"),
        TrainConfig(**{name: "~/place"}),
    ]
    assert {str(getattr(found, name)) for found in given} == {f"{tmp_path}/place"}


def test_the_address_of_a_store_holds_no_home_directory():
    assert options("--checkpoint-dir=s3://bucket/~/a").checkpoint_dir == "s3://bucket/~/a"


def test_the_cache_lies_where_the_environment_says():
    assert default_cache_dir({"DISTTRAIN_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert default_cache_dir({"XDG_CACHE_HOME": "/b"}) == Path("/b/disttrain")
    assert default_cache_dir({}) == Path.home() / ".cache" / "disttrain"


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_the_help_of_training_is_grouped_with_defaults_and_exit_codes(capsys):
    text = help_of(capsys)
    groups = [text.index(f"\n{group}:\n") for group in ("data", "model", "training", "output")]
    assert groups == sorted(groups)
    for fact in (
        "horovodrun -np 4 python -m disttrain --data FILE",
        "[250]",
        "[16,8]",
        "[mae]",
        "[0.001]",
        "1,000,000 rows",
        "DISTTRAIN_BATCH_SIZE=500",
        "batch_size = 500",
        "disttrain make-data FILE",
        "2 usage, 3 data",
    ):
        assert fact in text, fact
    assert max(map(len, text.splitlines())) <= 110
    assert help_of(capsys, "train") == text


def test_the_help_of_make_data_is_grouped_with_defaults(capsys):
    text = help_of(capsys, "make-data")
    for fact in ("disttrain make-data", "\nrecipe:\n", "\noutput:\n", "500e6", "[1000000]", "[0.0]", "y = x"):
        assert fact in text, fact


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"disttrain {disttrain.__version__}\n"


def test_no_flag_can_be_shortened_so_that_a_new_one_breaks_no_script():
    assert "--batch" in refusal("--batch", "3")


def test_settings_cannot_change_after_their_checks():
    with pytest.raises(ValueError, match="frozen"):
        options().batch_size = 0


def test_a_parser_prints_and_exits_nowhere_by_itself():
    parser = build_parser(TrainConfig, "disttrain", "")
    assert isinstance(parser, argparse.ArgumentParser)
    with pytest.raises(UsageError):
        parser.parse_args(["--no-such-flag"])


# what is run, what it must not have imported
LAZY = {
    "the package": ("import disttrain", ("tensorflow", "keras", "numba", "numpy", "pydantic", "rich")),
    "the command line": ("import disttrain.cli", ("tensorflow", "keras", "numba", "rich")),
    "the generator": ("from disttrain import batches", ("tensorflow", "keras", "pydantic_settings", "rich")),
}


@pytest.mark.parametrize("name", LAZY)
def test_importing_costs_nothing_that_is_not_used(name):
    code, heavy = LAZY[name]
    code += f"\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_sorted_and_each_is_there():
    assert disttrain.__all__ == sorted(disttrain.__all__)
    for name in disttrain.__all__:
        assert callable(getattr(disttrain, name))
        assert name in dir(disttrain)
    with pytest.raises(AttributeError, match="no_such_name"):
        disttrain.no_such_name  # noqa: B018
