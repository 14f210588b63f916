"""The command as a user meets it: what it prints, writes and returns."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from wgan_fast.cli import main
from wgan_fast.cli.bench import published
from wgan_fast.studies import STUDIES
from wgan_fast.training.run.checkpoint import iterations

TINY = "--iterations 4 --width 16 --batch-size 8 --n-critic 1 --log-every 2"
trains = pytest.mark.needs("rich", "sklearn", "matplotlib", "PIL", "ot")
# Found once the command has begun, by what it imports.
MISTAKES_OF_RUNS = [
    ("train --data digit", "--data digit is unknown; did you mean digits?\n"),
    ("study point-mas", "study point-mas is unknown; did you mean point-mass?\n"),
    ("train --data nonsense", "--data nonsense is unknown"),
    ("train --data folder:absent", "there is no such folder"),
    ("train --data 8gaussians --conditional", "--conditional: 8gaussians has no labels of at least 2 classes"),
    ("train --device tpu9", "--device tpu9 cannot be used"),
    ("train --architecture dcgan", "--architecture dcgan makes 32x32 or 64x64 images"),
    ("sample absent", "absent is not a run folder"),
    ("sample absent --out a.jpg", "--out must end in .png or .npz"),
    ("sample absent --out a.png --format npz", "--format npz contradicts --out a.png"),
    ("evaluate absent", "absent is not a run folder"),
    ("study point-mass --size smoke --out /dev/null/x", "--out /dev/null/x cannot be written (Not a directory)"),
    ("study nope", "study nope is unknown; expected one of point-mass, divergences"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp()))  # matplotlib writes there when imported
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def _run(command: str) -> int:
    return main(command.split())


@trains
def test_train_sample_evaluate(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(f"train --data digits --constraint gp --out runs/x --seed 0 {TINY}") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for text in (
        "iteration 4/4",
        "wasserstein_estimate",
        "Fréchet distance",
        "held-out real data",
        "runs/x/samples.png",
    ):
        assert text in shown.out
    run = elsewhere / "runs" / "x"
    expected = ["checkpoints", "config.json", "curves.png", "evaluation.json", "metrics.jsonl", "samples.png"]
    assert sorted(p.name for p in run.iterdir()) == expected
    assert [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        2,
        4,
    ]

    assert _run("sample runs/x --num 12 --out new/many.npz --seed 3") == 0
    samples = np.load("new/many.npz")["samples"]
    assert samples.shape == (12, 1, 8, 8)
    assert samples.dtype == np.float32
    assert _run("sample runs/x --num 12 --seed 3 --out again.npz") == 0
    assert np.array_equal(samples, np.load("again.npz")["samples"])
    assert _run("sample runs/x --num 3") == 0
    assert Path("samples.png").stat().st_size > 0

    before = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").unlink()
    assert _run("evaluate runs/x") == 0
    assert json.loads((run / "evaluation.json").read_text()) == before
    assert "classes among 500" in capsys.readouterr().out


@pytest.mark.needs("rich")
def test_the_summary_has_the_figures_beside_their_names() -> None:
    from rich.console import Console

    from wgan_fast.cli.console import print_summary
    from wgan_fast.training.loop.trainer import TrainResult
    from wgan_fast.training.report.evaluation import Evaluation, Figure

    console = Console(width=90, record=True, file=io.StringIO())
    evaluation = Evaluation([Figure("distance", 1.5, 0.25), Figure("modes", "7 of 8", "8 of 8")], ["a note"])
    print_summary(console, TrainResult(10, 2.0, {}, False), evaluation, [Path("a.png")], 3.0)
    lines = console.export_text().splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows[0] == ["generator iterations", "10", ""]
    assert rows[-2:] == [["distance", "1.5", "0.25"], ["modes", "7 of 8", "8 of 8"]]
    assert lines[-2:] == ["- a note", "a.png"]


@trains
def test_resume_continues_with_the_runs_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(f"train --data swissroll --constraint clip --no-critic-burst --no-evaluate {TINY}") == 0
    folder = Path("runs/swissroll-clip")
    assert (folder / "critic.png").is_file()
    assert not (folder / "evaluation.json").exists()
    capsys.readouterr()
    assert _run(f"train --out {folder} --resume --iterations 6 --no-evaluate") == 0
    config = json.loads((folder / "config.json").read_text())
    assert (config["data"], config["constraint"], config["width"], config["iterations"]) == (
        "swissroll",
        "clip",
        16,
        6,
    )
    assert [json.loads(x)["iteration"] for x in (folder / "metrics.jsonl").read_text().splitlines()] == [
        2,
        4,
        6,
    ]
    assert _run("sample runs/swissroll-clip --num 5") == 0
    capsys.readouterr()
    assert _run(f"train --out {folder} --resume --constraint gp") == 2
    assert "--constraint gp cannot change in a resumed run, which has clip" in capsys.readouterr().err
    assert _run(f"train --out {folder} --resume --critic-burst") == 2
    assert "--critic-burst cannot change in a resumed run, which has False" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("xyz", "xyz is not a command; expected one of train, sample, evaluate, explain, bench, doctor, study\n"),
        ("trian", "trian is not a command; did you mean train?\n"),
        ("--data digits", "--data is not a command; expected one of train,"),
        ("train --no-such-option 3", "--no-such-option is not an option of train; wgan-fast train --help lists them\n"),
        ("train --n-critics 3", "--n-critics is not an option of train; did you mean --n-critic?\n"),
        ("train --lambda_gp=3", "--lambda_gp is not an option of train; did you mean --lambda-gp?\n"),
        ("train --iter 3", "--iter is not an option of train; did you mean --iterations?\n"),
        ("train 3", "3 is not an argument of train; wgan-fast train --help lists them\n"),
        ("sample x --nun 3", "--nun is not an option of sample; did you mean --num?\n"),
        ("train --constraint foo", "--constraint must be one of none, clip, gp,"),
        ("train --constraint spectra", "got spectra; did you mean spectral?\n"),
        ("train --iterations many", "--iterations must be an integer, got 'many'\n"),
        ("train --iterations 2.5", "--iterations must be an integer, got '2.5'\n"),
        ("train --iterations", "--iterations: expected one argument\n"),
        ("train --betas 0.5", "--betas: expected 2 arguments\n"),
        ("train --seed 9223372036854775808", "--seed must be an integer of 64 bits, got '9223372036854775808'\n"),
        ("train --out=", "--out must be a path, got ''\n"),
        ("explain --data digit", "--data digit is unknown; did you mean digits?\n"),
        ("explain --batch 1000000000000000", "out of memory ("),
        ("bench --device meta", "--device meta cannot be used ("),
        ("train --learning-rate nan", "--learning-rate must be a number that is finite, got 'nan'\n"),
        ("train --recipe wgangp", "got wgangp; did you mean wgan-gp?\n"),
        ("train --iterations 0", "--iterations must be at least 1, got 0"),
        ("train --data npz:absent.npz", "there is no such file"),
        ("train --resume --out absent", "absent is not a run folder"),
        ("sample", "the following arguments are required: RUN\n"),
        ("sample absent --num 0", "--num must be at least 1"),
        ("sample absent --format gif", "--format must be one of png, npz, got gif\n"),
        ("sample absent --interpolate 0", "--interpolate must be at least 1, got 0\n"),
        ("train --config absent.yaml", "--config absent.yaml: there is no such file"),
        ("train --config a.yaml --resume", "--config contradicts it"),
        ("study point-mass --seed -1", "--seed must be at least 0, got -1\n"),
        ("study point-mass --size huge", "--size must be one of smoke, default, full, got huge\n"),
        ("study --size full", "the following arguments are required: NAME\n"),
        *(pytest.param(*case, marks=trains) for case in MISTAKES_OF_RUNS),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    command: str, message: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    assert _run(command) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("wgan-fast: ")
    assert shown.err.count("\n") == 1
    assert message in shown.err
    assert list(elsewhere.iterdir()) == []


@trains
def test_a_run_is_not_replaced_by_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(f"train --no-evaluate --out x {TINY}") == 0
    capsys.readouterr()
    assert _run(f"train --no-evaluate --out x {TINY}") == 2
    assert "--resume continues it, --overwrite replaces it" in capsys.readouterr().err
    assert _run(f"train --no-evaluate --out x --overwrite {TINY}") == 0
    assert _run(f"train --no-evaluate --out x --overwrite --resume {TINY}") == 2


@trains
def test_a_damaged_checkpoint_is_refused_and_an_intact_one_taken(
    capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    assert _run(f"train --no-evaluate --out whole {TINY} --checkpoint-every 2") == 0
    assert _run(f"train --no-evaluate --out x {TINY} --checkpoint-every 2") == 0
    newest = elsewhere / "x" / "checkpoints" / "00000004"
    content = (newest / "weights.safetensors").read_bytes()
    (newest / "weights.safetensors").write_bytes(content[:-1])
    capsys.readouterr()
    for command in ("train --resume --out x", "sample x", "evaluate x"):
        assert _run(command) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        assert "weights.safetensors has" in shown
        assert "the checkpoint of iteration 2 is intact: use --checkpoint 2" in shown
    assert _run("sample x --checkpoint 2 --num 3") == 0
    assert _run("train --no-evaluate --out x --checkpoint 2") == 2
    assert "--checkpoint 2 needs --resume" in capsys.readouterr().err
    assert _run("train --no-evaluate --out x --resume --checkpoint 2") == 0
    assert (newest / "weights.safetensors").read_bytes() == content
    assert (elsewhere / "x" / "metrics.jsonl").read_bytes() == (elsewhere / "whole" / "metrics.jsonl").read_bytes()
    assert _run("sample x --checkpoint best --num 3") == 0


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert _run("train") == 2
    expected = 'wgan-fast: wgan-fast train needs rich, which cannot be imported: pip install "wgan-fast[train]"\n'
    assert capsys.readouterr().err == expected


@trains
@pytest.mark.parametrize("module", ["matplotlib.figure", "PIL.Image", "ot", "torchmetrics.image.fid"])
def test_what_is_needed_after_the_training_is_missed_before_it(
    module: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert _run(f"train {TINY}") == 2
    shown = capsys.readouterr()
    package = module.partition(".")[0]
    assert f'needs {package}, which cannot be imported: pip install "wgan-fast[train]"\n' in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("command", ["doctor", "explain"])
def test_works_without_extras(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rich", "numpy", "matplotlib", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)
    assert _run(command) == 0
    assert capsys.readouterr().out


def test_bench_shows_the_published_ratios_without_extras(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert _run("bench --rounds 1") == 0
    here, _, *rows = capsys.readouterr().out.splitlines()
    assert torch.__version__ in here
    for figures in published().values():
        for pattern, ratio in figures.items():
            (row,) = [row for row in rows if row.startswith(f"{pattern}  ")]
            assert f"{ratio:.2f}" in row.split()[-len(published()) :]


def test_doctor_names_versions_backends_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("doctor") == 0
    shown = capsys.readouterr().out
    for text in (
        "torch",
        "python",
        "reference",
        "available",
        "cuda",
        "torch.get_num_threads()",
        "OMP_NUM_THREADS",
    ):
        assert text in shown


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        _run("train --help")
    assert not stop.value.code
    shown = capsys.readouterr().out
    for option in ("--data", "--constraint", "--iterations", "--lambda-gp", "--out", "--resume", "--seed"):
        assert option in shown


def test_help_says_what_an_option_left_out_will_be(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for arguments in ("", "--constraint clip --data 8gaussians", "--data npz:somewhere.npz", "--lr-decay --width 8"):
        with pytest.raises(SystemExit) as stop:
            _run(f"train {arguments} --help")
        assert not stop.value.code
        text = " ".join(capsys.readouterr().out.split())
        assert "None" not in text
        assert ("other options" in text) == ("npz:" in arguments)
        shown[arguments] = text
    assert "Generator iterations, each after n_critic critic steps. (default: 1500)" in shown[""]
    clip = shown["--constraint clip --data 8gaussians"]
    assert "Learning rate of both networks. (default: 5e-05)" in clip
    assert "as many generated ones. (default: 256)" in clip
    assert "(default: by the other options)" in shown["--data npz:somewhere.npz"]
    assert "over the run. (default: yes)" in shown["--lr-decay --width 8"]
    assert "(default: 8)" in shown["--lr-decay --width 8"]
    for command in ("", "sample", "evaluate", "doctor", "study"):
        with pytest.raises(SystemExit) as stop:
            _run(f"{command} --help")
        assert not stop.value.code
        assert "None" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        _run("--help")
    assert "Exit codes: 0 done; 2 a mistake" in capsys.readouterr().out


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert not stop.value.code
    shown = capsys.readouterr().out
    for text in ("usage: wgan-fast COMMAND", "train", "sample", "evaluate", "doctor", "study", "Exit codes"):
        assert text in shown
    assert max(map(len, shown.splitlines())) <= 80


@trains
def test_the_help_of_a_run_gives_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(f"train --quiet --no-evaluate --out x {TINY}") == 0
    Path("run.yaml").write_text("lambda-gp: 7\n")
    for arguments, expected in (
        ("--resume --out x", "n_critic critic steps. (default: 4)"),
        ("--config run.yaml", "7)"),
    ):
        with pytest.raises(SystemExit):
            _run(f"train {arguments} --help")
        assert expected in " ".join(capsys.readouterr().out.split())


@trains
def test_a_config_of_before_it_held_the_shape_of_samples_still_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(f"train --quiet --no-evaluate --out x {TINY}") == 0
    path = Path("x/config.json")
    content = json.loads(path.read_text())
    old = {name: value for name, value in content.items() if name not in ("sample_shape", "recipe")}
    path.write_text(json.dumps(old))
    assert _run("train --quiet --no-evaluate --out x --resume --iterations 6") == 0
    assert json.loads(path.read_text()) == {**content, "iterations": 6}
    path.write_text(json.dumps(old))
    assert _run("train --quiet --no-evaluate --config x/config.json --out y") == 0
    assert json.loads(Path("y/config.json").read_text()) == content
    path.write_text(json.dumps({**old, "of_another_version": 1}))
    capsys.readouterr()
    assert _run("train --out x --resume") == 2
    shown = capsys.readouterr().err
    assert "of_another_version" in shown
    assert shown.count("\n") == 1


@trains
def test_quiet_prints_nothing_but_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(f"train --quiet --no-evaluate --out x {TINY}") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert _run(f"train --quiet --no-evaluate --out x {TINY}") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1


@trains
def test_classes_and_paths_are_sampled(capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert _run(f"train --conditional --no-evaluate {TINY}") == 0
    assert "num_classes" in Path("runs/digits-gp-conditional/config.json").read_text()
    run = "runs/digits-gp-conditional"
    assert _run(f"sample {run} --class 3 --num 5 --format npz") == 0
    three = np.load("samples.npz")
    assert three["labels"].tolist() == [3] * 5
    assert _run(f"sample {run} --num 23 --out all.npz") == 0
    assert np.load("all.npz")["labels"].tolist() == [i % 10 for i in range(23)]
    assert np.array_equal(np.load("all.npz")["samples"][3], three["samples"][3])
    assert _run(f"sample {run} --num 23 --out all.png") == 0
    assert Image.open("all.png").size == (10 * 60 + 4, 3 * 60 + 4)
    assert _run(f"sample {run} --interpolate 4 --class 9 --out paths.npz") == 0
    paths = np.load("paths.npz")
    assert paths["samples"].shape == (4, 10, 1, 8, 8)
    assert paths["labels"].tolist() == [9] * 4
    assert _run(f"sample {run} --interpolate 2 --out paths.png") == 0
    assert Image.open("paths.png").size == (10 * 60 + 4, 2 * 60 + 4)
    capsys.readouterr()
    assert _run(f"sample {run} --class 10") == 2
    assert capsys.readouterr().err == "wgan-fast: classes are numbered from 0 to 9, got 10\n"
    assert _run(f"train --data swissroll --no-evaluate --out points {TINY}") == 0
    capsys.readouterr()
    assert _run("sample points --class 0") == 2
    assert "takes no class: it was not trained with --conditional" in capsys.readouterr().err
    assert _run("sample points --interpolate 3") == 0
    assert Path("samples.png").stat().st_size > 0


@trains
def test_a_config_file_gives_defaults_that_flags_override(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(
        "data: swissroll\nconstraint: clip\niterations: 4\nwidth: 16\nbatch-size: 8\nn_critic: 1\n"
        "critic_burst: true\nlearning_rate: 1e-3\nlog_every: 2\n"
    )
    assert _run("train --config run.yaml --no-critic-burst --batch-size 4 --no-evaluate --out x") == 0
    shown = capsys.readouterr().out
    assert "constraint clip, clip-value 0.01" in shown
    assert "critic-burst no" in shown
    config = json.loads(Path("x/config.json").read_text())
    assert (config["data"], config["learning_rate"], config["batch_size"]) == ("swissroll", 1e-3, 4)
    assert config["critic_burst"] is False
    assert _run("train --config x/config.json --no-evaluate --out again") == 0
    assert json.loads(Path("again/config.json").read_text()) == config
    assert Path("again/metrics.jsonl").read_text() == Path("x/metrics.jsonl").read_text()
    capsys.readouterr()
    Path("run.yaml").write_text("n_critics: 3\n")
    assert _run("train --config run.yaml") == 2
    assert (
        capsys.readouterr().err
        == "wgan-fast: --config run.yaml: n_critics is not an option of a run; did you mean n_critic?\n"
    )


@trains
def test_samples_that_cannot_be_written_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(f"train --quiet --no-evaluate --out x {TINY}") == 0
    Path("taken.png").mkdir()
    assert _run("sample x --out taken.png") == 2
    assert capsys.readouterr().err == "wgan-fast: --out taken.png cannot be written (Is a directory)\n"
    assert main(["sample", ""]) == 2
    assert capsys.readouterr().err == "wgan-fast: RUN must be a path, got ''\n"


@trains
def test_a_training_goes_on_when_nobody_reads_what_it_prints(elsewhere: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "wgan_fast", "train", "--out", "run", "--no-evaluate", *TINY.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert iterations(elsewhere / "run") == [0, 4]


def test_letters_that_a_terminal_lacks_are_escaped() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "ascii"}
    shown = subprocess.check_output([sys.executable, "-m", "wgan_fast", "study"], env=environment, timeout=120)
    assert b"W1 = |\\u03b8|" in shown


@trains
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_a_checkpoint_that_resumes(sent: signal.Signals, code: int, elsewhere: Path) -> None:
    command = [sys.executable, "-m", "wgan_fast", "train", "--out", "run", "--no-evaluate", *TINY.split()]
    command += ["--iterations", "1000000", "--checkpoint-every", "1000000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        log = elsewhere / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == ""
    assert "--resume --out run continues" in out
    start, reached = iterations(elsewhere / "run")
    assert start == 0
    assert reached >= 2
    assert _run(f"train --out run --resume --no-evaluate --iterations {reached + 2}") == 0


@trains
def test_study_lists_and_runs(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("study") == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(STUDIES)
    assert listed[0].startswith("point-mass ")
    assert _run("study point-mass --size smoke --seed 2 --out new/folder") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    folder = elsewhere / "new" / "folder"
    content = json.loads((folder / "point-mass.json").read_text())
    assert content["findings"] in shown.out
    assert content["seeds"] == [2, 3]
    assert (folder / "point-mass.png").is_file()
