"""What the documents name exists: paths, options, commands and the figure's benchmark behind every number."""

import re
from pathlib import Path

import pytest

from disttrain.config import EvaluateSettings, ExportSettings, InspectConfig, PredictSettings, SimulateConfig
from disttrain.synthetic.command import MakeDataConfig

ROOT = Path(__file__).resolve().parents[2]
READMES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", ROOT / "k8s" / "README.md"]
DOCUMENTS = sorted([*READMES, *ROOT.glob("C*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
# What a reader has rather than the repository: the environment, and what runs write.
MADE_BY_RUNNING = (".venv/", "runs/", "wheels/", "__pycache__/", "k8s/runs/")
TOP = {path.name for path in ROOT.iterdir()}


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_linked_files_exist(name):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(name))
    missing = [link for link in links if "://" not in link and not ((ROOT / name).parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", NAMES)
def test_named_paths_exist(name):
    """Every path that begins with a folder of the repository."""
    words = re.findall(r"(?<![\w./-])([\w.-]+/[\w./-]*[\w/])", text_of(name))
    own = {word for word in words if word.split("/")[0] in TOP and not word.startswith(MADE_BY_RUNNING)}
    assert not [word for word in own if not (ROOT / word).exists()]


# The first has the options of a training and a plan too.
CONFIGS = (SimulateConfig, InspectConfig, MakeDataConfig, EvaluateSettings, PredictSettings, ExportSettings)


@pytest.mark.parametrize("name", NAMES)
def test_named_options_exist(name):
    """Every `--option` that a document gives to disttrain."""
    known = {"--" + field.rstrip("_").replace("_", "-") for config in CONFIGS for field in config.model_fields}
    known |= {"--config", "--help", "--version"}
    commands = re.findall(r"(?:^|[\s`])disttrain ((?:[^`\n]|\\\n)*)", text_of(name))
    used = {option for command in commands for option in re.findall(r"(?<!\w)--[a-z-]+", command)}
    assert not used - known


@pytest.mark.parametrize("name", NAMES)
def test_named_modules_can_be_run(name):
    """Every `python -m benchmarks.NAME`."""
    scripts = re.findall(r"python -m benchmarks\.(\w+)", text_of(name))
    assert not [
        script for script in scripts if not (ROOT / "benchmarks" / f"{script}.py").exists() and script != "NAME"
    ]


def test_the_tree_in_the_architecture_names_every_module():
    """By their names, each indented below its folder."""
    tree = text_of("docs/architecture.md").split("## The tree")[1].split("```")[1]
    modules = [path for path in (ROOT / "disttrain").rglob("*.py") if not path.name.startswith("__")]
    assert not [path for path in modules if not re.search(rf"^ +{re.escape(path.name)} ", tree, re.MULTILINE)]


@pytest.mark.parametrize("name", NAMES)
def test_linked_headings_exist(name):
    """Every `#anchor` of a link, as GitHub makes them of headings."""
    missing = []
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", text_of(name)):
        target = (ROOT / name).parent / link if link else ROOT / name
        if "://" in link or target.suffix != ".md":
            continue
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        missing += [f"{link}#{anchor}"] if anchor not in anchors else []
    assert not missing
