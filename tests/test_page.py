"""report.html: parsed, and every reference in it opened."""

import base64
import io
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import soundfile
from conftest import voiced
from helpers import read_table
from matplotlib.image import imread

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_ext.evaluation.page import (
    MOST_WRONG,
    write_most_wrong,
    write_page,
)
from speechbrain_ext.evaluation.plots import plot_scores
from speechbrain_ext.evaluation.report import LEGEND, SMOKE, main_table, notes
from speechbrain_ext.evaluation.results import Subspace, write_results
from speechbrain_ext.evaluation.tasks import Embedded, Verification, run_tasks
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv
from speechbrain_ext.utils.hparams import save_hparams

VOID = {"meta", "img", "br"}
SPEAKERS, CONTENTS = np.divmod(np.arange(12), 4)
IDS = [f"<i>{n}" for n in range(12)]
CRITICAL = "<b>joint & more"


class Page(HTMLParser):
    """Elements as (tag, attributes), texts by the tag that they stand in."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open  # each that was opened was closed

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], " ".join(data.split())))

    def all(self, tag):
        return [attributes for one, attributes in self.elements if one == tag]

    def said(self, *tags):
        return [text for tag, text in self.texts if not tags or tag in tags]


def decoded(source, kind):
    """What an address carries."""
    start = f"data:{kind};base64,"
    assert source.startswith(start)
    return io.BytesIO(base64.b64decode(source[len(start) :], validate=True))


@pytest.fixture
def make(tmp_path):
    """Files of a run: 3 speakers, whose subspace confuses two of them."""

    def make(lists=("",), reference=None, **about):
        audio = tmp_path / "audio"
        audio.mkdir(exist_ok=True)
        data = {}
        for n, key in enumerate(IDS):
            seconds = 9.5 if n == 1 else 0.3
            wave = voiced(SPEAKERS[n], CONTENTS[n], seconds=seconds)
            soundfile.write(audio / f"{n}.wav", wave, 16000)
            data[key] = {
                "wav": str(audio / f"{n}.wav"),
                "speaker": f"s{SPEAKERS[n]}",
                "content": f"<script>{CONTENTS[n]}</script>",
                "split": "test",
            }
        data[IDS[2]] |= {"start": 1600, "stop": 3200}
        noise = np.random.default_rng(0).normal(scale=0.3, size=(12, 3))
        vectors = {
            Subspace("baseline", encoder="mini"): noise,
            Subspace(CRITICAL, "content", "mini"): noise[:, ::-1],
            Subspace(CRITICAL, "speaker", "mini"): noise + np.eye(3)[SPEAKERS],
        }
        trials = generate_trials(SPEAKERS, CONTENTS)
        asked = [
            Verification("speaker", trials, list_name=one, reference=reference)
            for one in lists
        ]
        embedded = Embedded("recorded", {"test": vectors})
        rows = run_tasks(asked, embedded, data="grid")
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        write_results(out, rows, {"seed": 1, "trials": None} | about)
        plot_scores(asked[0], out, "title", det=True)
        write_most_wrong(out, asked, DynamicItemDataset(data), IDS)
        make.rows, make.asked, make.audio = rows, asked, audio
        return out

    return make


def test_every_reference_opens(make):
    out = make()
    for name in ("export #1", "scores", "leakage_recorded.png", ".lock"):
        if name.endswith("s") or name.startswith("export"):
            (out / name).mkdir()
        else:
            (out / name).touch()
    write_page(out)
    page = Page(out / "report.html")
    assert page.all("html") == [{"lang": "en"}]
    assert (
        page.said("title") == page.said("h1") == ["Evaluation of mini on grid"]
    )
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe"}
    # Figures: of this run, not what an earlier one left
    images = page.all("img")
    assert [image["alt"] for image in images] == [
        "Scores of target and non-target trials, as recorded",
        "Detection error trade-off, as recorded",
    ]
    for image in images:
        assert imread(decoded(image["src"], "image/png")).std() > 0.01
    # Players: both sides of five pairs of each kind, or as many as there are
    wrong = read_csv(out / MOST_WRONG)
    players = page.all("audio")
    assert len(players) == 2 * len(wrong) > 8
    for row, pair in zip(wrong, zip(players[::2], players[1::2])):
        for side, player in zip(("enrol", "test"), pair):
            assert "controls" in player and player["aria-label"] == row[side]
            wave, rate = soundfile.read(decoded(player["src"], "audio/flac"))
            whole, _ = soundfile.read(row[f"{side}_wav"])
            start = int(row[f"{side}_start"] or 0)
            stop = int(row[f"{side}_stop"] or 8 * 16000)
            assert rate == 16000
            assert np.allclose(wave, whole[start:stop], atol=1e-4)
    # Links: all files, and none elsewhere but the paper
    links = [link["href"] for link in page.all("a")]
    assert links.pop().startswith("https://arxiv.org/")
    # As a browser takes them: what follows # is no part of the name.
    names = [unquote(urlsplit(link).path) for link in links]
    assert all((out / name).exists() for name in names)
    assert {name.strip("/") for name in names} == {
        "results.csv", "results.json", MOST_WRONG, "export #1", "scores",
        "scores_recorded.png", "det_recorded.png",
    }  # fmt: skip
    others = {
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if value and "http" in value and name != "href"
    }
    assert not others
    assert "url(" not in (out / "report.html").read_text()


def test_tables_and_notes_are_those_of_the_report(make):
    out = make(lists=("one.txt", "two.txt"))
    write_page(out)
    page = Page(out / "report.html")
    tables = main_table(make.rows).split("\n\n")
    assert page.said("caption")[:2] == [tables[0], tables[2]]
    first = read_table(tables[1])
    cells = [cell for line in first for cell in line if cell]
    assert page.said("th", "td")[: len(cells)] == cells
    assert {one["scope"] for one in page.all("th")} == {"col", "row"}
    for line in notes(make.rows):
        assert line in page.said("li")
    assert " ".join(LEGEND.split()) in page.said("p")


def test_what_is_written_is_escaped(make):
    """Names with marks of HTML stay text: the parser sees no such elements."""
    out = make(left_out=["<img src=x onerror=alert(1)>"])
    write_page(out)
    page = Page(out / "report.html")
    assert not [tag for tag in ("i", "script") if page.all(tag)]
    assert all("onerror" not in image for image in page.all("img"))
    assert "<img src=x onerror=alert(1)>" in page.said("dd")
    assert any(text.startswith(CRITICAL) for text in page.said("th"))
    assert set(page.said("b")) <= set(IDS)


def test_audio_that_is_gone_is_said(make):
    out = make()
    write_page(out)
    before = len(Page(out / "report.html").all("audio"))
    row = read_csv(out / MOST_WRONG)[0]
    for side in ("enrol", "test"):
        wav = make.audio / row[f"{side}_wav"]
        wav.unlink() if side == "enrol" else wav.write_bytes(b"RIFF")
    write_page(out)
    page = Page(out / "report.html")
    gone = [text for text in page.said("p") if text.startswith("No audio")]
    assert f"No audio: There is no file {row['enrol_wav']}" in gone
    assert len(page.all("audio")) + len(gone) == before
    assert any(f"{row['test_wav']} is not readable" in text for text in gone)


def test_which_trials_are_most_wrong(make):
    """By hand: sorted scores, and each utterance once."""
    out = make()
    [task] = make.asked
    scores, labels = task.scores["recorded"], np.asarray(task.trials.label)
    origins = dict(zip(("baseline", "content", "speaker"), scores))

    def check(origin):
        found = read_csv(out / MOST_WRONG)
        assert {row["system"] for row in found} == {origin.label}
        threshold = equal_error_rate(scores[origin], labels)[1]
        assert {row["threshold"] for row in found} == {f"{threshold:.7g}"}
        for kind, sign in (("target", 1), ("nontarget", -1)):
            of_kind = np.flatnonzero(labels == (kind == "target"))
            wanted, seen = [], set()
            for n in sorted(of_kind, key=lambda n: sign * scores[origin][n]):
                pair = IDS[task.trials.enrol[n]], IDS[task.trials.test[n]]
                if seen.isdisjoint(pair):
                    wanted.append(pair)
                    seen.update(pair)
            rows = [row for row in found if row["kind"] == kind]
            assert [(r["enrol"], r["test"]) for r in rows] == wanted[:5]

    check(origins["speaker"])
    make(reference="baseline")
    [task] = make.asked
    check(origins["baseline"])
    # Of several lists fewer each, and none without verification
    make(lists=("one.txt", "two.txt"))
    assert len(read_csv(out / MOST_WRONG)) == 2 * 2 * 2
    write_most_wrong(out, [], DynamicItemDataset({"u": {}}), [])
    assert not (out / MOST_WRONG).exists()


def test_what_is_said_of_a_trial(make):
    """Target trials first; what is right is accepted if it is one."""
    out = make()
    write_page(out)
    page = Page(out / "report.html")
    kinds = "The same speaker, lowest", "Another speaker, highest"
    assert page.said("h3") == [
        f"{kind} scores, {CRITICAL} speaker, as recorded" for kind in kinds
    ]
    wanted = []
    for row in read_csv(out / MOST_WRONG):
        score, threshold = float(row["score"]), float(row["threshold"])
        accepted, target = score > threshold, row["kind"] == "target"
        wanted.append(
            f"Score {score:.3f}, threshold {threshold:.3f}: "
            f"{'accepted' if accepted else 'rejected'} "
            f"({'right' if accepted == target else 'wrong'})"
        )
    said = [text for text in page.said("p") if text.startswith("Score ")]
    assert said == wanted
    assert len({text.partition(": ")[2] for text in said}) > 1


def test_what_was_run(make, tmp_path):
    grid = {"factors": {"speaker": 64}, "utterances": 640}
    out = make(
        smoke_run={"n": 1}, grid=grid, layers=[0, 2], encoder_identity={}
    )
    option_file = tmp_path / "train.yaml"
    option_file.write_text("# From --here\nseed: 1\n")
    save_hparams(out, option_file, 'seed: 2\noutput_folder: "a #1"')
    (out / "log.txt").write_text(
        "2026-01-01 08:00:00,000 - x - INFO - Beginning experiment!\n"
        "2026-01-01 08:00:01,000 - x - INFO - of the run before\n"
        "2026-01-02 23:59:00,100 - x - INFO - Beginning experiment!\n"
        "2026-01-02 23:59:00,200 - x - INFO - folder\n  more\n"
        "2026-01-03 01:00:02,000 - x - INFO - Results written\n"
    )
    write_page(out)
    page = Page(out / "report.html")
    assert page.said("h1") == ["Training of mini on grid"]
    assert SMOKE in page.said("p")
    facts = dict(zip(page.said("dt"), page.said("dd"), strict=True))
    assert facts.pop("versions").startswith("Python 3.")
    assert facts == {
        "begun": "2026-01-02 23:59:00",
        "took (h:mm:ss)": "1:01:02",
        "option file": str(option_file),
        "options given": 'seed: 2; output_folder: "a #1"',
        "seed": "1",
        "smoke run": "n: 1",
        "grid": "factors (speaker: 64); utterances: 640",
        "layers": "0, 2",
    }


@pytest.mark.parametrize("content", [None, "{", "[]", '{"rows": []}'])
def test_folders_without_results_are_refused(content, tmp_path):
    if content:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match="has no results.json that can be"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()
