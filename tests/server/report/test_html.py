"""The page: complete, self-contained, and safe with whatever a vehicle calls itself."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from convoy_protos.errors import UsageError
from convoy_server.report import html
from convoy_server.report.contract import Baseline, Baselines, DriveScore, Picture
from convoy_server.round_log import ShardRecord, VehicleBytes

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Text, tags and attributes of a page; checks that the elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip(" \n"))

    @property
    def text(self) -> str:
        """What a reader sees, words apart by one blank."""
        return " ".join(text for text in self.texts if text)


@pytest.fixture(scope="module")
def page(full_report, run_dir):
    return Page(html.render(full_report, run_dir))


def test_the_page_shows_what_the_report_holds(page):
    for expected in (
        "demo",
        "seed 7",
        "released",
        "80.0%",  # the fleet's balanced accuracy
        "70.0%",  # the worst vehicle
        "int8 size ratio",
        "✓ passed",
        "not finite",
        "737 kB",
        "4\u202f000 training frames",
        "convoy simulate demo.toml --out runs/demo --seed 7",
        "torch 2.13.0",
        "whoever sees the message",
        "never answered",
        "abandoned",
        "day, track 4",
    ):
        assert expected in page.text, expected


def test_what_a_vehicle_calls_itself_stays_text(page, full_report):
    assert full_report.final.worst_vehicle.id.startswith("<script>")
    assert full_report.final.worst_vehicle.id in page.text
    assert "norm <b>nan</b>" in page.text
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "b", "iframe", "link", "object"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_the_page_needs_nothing_from_outside(page, full_report, run_dir):
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            target = attrs.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
    text = html.render(full_report, run_dir)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_pictures_have_words_for_those_who_do_not_see_them(page):
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [attrs["alt"] for attrs in pictures] == [
        "What the day camera sees",
        "Driven line: day, track 4",
    ]


def test_table_heads_have_a_scope(page):
    heads = [attrs for tag, attrs in page.tags if tag == "th"]
    assert heads
    assert all(attrs.get("scope") in {"col", "row"} for attrs in heads)


def test_no_id_stands_twice(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_vehicles_come_worst_first(page, full_report):
    text = page.text[page.text.index("worst served first") :]
    worst = full_report.final.worst_vehicle.id
    assert text.index(worst) < text.index("car1") < text.index("car0")


def test_what_was_switched_off_is_left_out(full_report, run_dir):
    bare = dataclasses.replace(
        full_report,
        release=None,
        closed_loop=None,
        baselines=Baselines(),
        curves={},
        pictures=(),
        environment=None,
    )
    text = Page(html.render(bare, run_dir)).text
    for absent in ("Release", "On the road", "The same again", "in one place", "released"):
        assert absent not in text, absent
    assert "The baselines were switched off." in text


def test_a_refused_release_is_told_at_the_top_and_beside_the_gate(full_report, run_dir):
    gate = dataclasses.replace(full_report.release.gates[0], value=0.4, passed=False)
    release = dataclasses.replace(full_report.release, accepted=False, gates=(gate,))
    text = Page(html.render(dataclasses.replace(full_report, release=release), run_dir)).text
    assert "release refused" in text
    assert "✗ refused" in text


def test_a_run_that_goes_on_says_so(full_report, run_dir):
    partial = dataclasses.replace(full_report, release=None, complete=False)
    text = Page(html.render(partial, run_dir)).text
    assert "not finished" in text
    assert "--resume" in text
    assert "4 rounds so far: balanced accuracy 80.0%" in text
    assert "The current model" in text


@pytest.mark.parametrize(
    ("file", "error"),
    [
        ("pictures/gone.png", "report names this picture, but No such file"),
        ("../secret.png", "inside"),  # a report cannot make the page swallow other files
        ("/etc/passwd", "inside"),
        ("pictures/line.exe", "PNG, JPEG or SVG"),
    ],
)
def test_a_picture_that_cannot_be_shown_is_named(full_report, run_dir, file, error):
    picture = Picture(file=file, kind="driven_line", title="x")
    with pytest.raises(UsageError, match=error):
        html.render(dataclasses.replace(full_report, pictures=(picture,)), run_dir)


def test_the_headline_compares_with_the_baselines(full_report):
    assert html.headline(full_report) == (
        "3 vehicles learned to drive together, each keeping its recordings to itself: "
        "80.0% balanced accuracy. That is 20.0 points more than a vehicle that learns alone and "
        "97.6% of what training on all recordings in one place gives."
    )


def test_the_headline_hides_no_defeat(full_report):
    better = Baselines(single_vehicle=Baseline(balanced_accuracy=0.9))
    report = dataclasses.replace(full_report, baselines=better)
    assert "That is 10.0 points less than a vehicle that learns alone." in html.headline(report)


def test_troubles_are_gathered_by_reason_with_who_and_when(full_report, rounds):
    refused, lost = html.troubles(rounds)
    assert (refused.reason, refused.count, refused.rounds) == ("not_finite", 2, (2, 3))
    assert refused.vehicles == (full_report.final.worst_vehicle.id,)
    assert refused.detail == "norm <b>nan</b>"
    assert (lost.reason, lost.count, lost.vehicles) == ("lost", 1, ("car1",))


def test_troubles_that_nobody_put_a_name_to_are_counted_all_the_same(rounds):
    nameless = [dataclasses.replace(r, rejections=(), lost_vehicles=()) for r in rounds]
    assert [(t.reason, t.count, t.vehicles) for t in html.troubles(nameless)] == [
        ("not_finite", 2, ()),
        ("lost", 1, ()),
    ]


def test_drivers_keep_their_order_and_strangers_follow():
    score = DriveScore(track_covered=0.5)
    closed_loop = {"day": {"zebra": score, "expert": score}, "fog": {"federated_int8": score}}
    assert list(html.drivers(closed_loop)) == ["federated_int8", "expert", "zebra"]


def test_the_mean_counts_only_the_appearances_that_were_driven():
    closed_loop = {
        "day": {"expert": DriveScore(track_covered=0.5), "central": DriveScore()},
        "fog": {"expert": DriveScore(track_covered=1.0)},
    }
    assert html.mean_covered(closed_loop) == {"expert": 0.75}


@pytest.mark.parametrize(
    ("number_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),  # never "1000 kB"
        (69_410, "69.4 kB"),
        (1_820_000_000, "1.82 GB"),
    ],
)
def test_sizes_have_three_digits(number_bytes, text):
    assert html.size(number_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (221.4, "3 min 41 s"),
        (3_600, "1 h 0 min"),
    ],
)
def test_durations_read_like_a_clock(seconds, text):
    assert html.duration(seconds) == text


def test_a_release_that_broke_off_shows_why_and_dashes(full_report, run_dir):
    release = dataclasses.replace(
        full_report.release,
        accepted=False,
        fp32_bytes=None,
        int8_bytes=None,
        int8_balanced_accuracy=None,
        sha256=None,
        reasons=("the export failed",),
        warnings=("few proxy frames",),
    )
    text = Page(html.render(dataclasses.replace(full_report, release=release), run_dir)).text
    assert "the export failed" in text
    assert "few proxy frames" in text
    assert "SHA-256" not in text


def test_a_limit_says_which_way_it_holds(page):
    assert "≤ 0.3" in page.text  # int8_size_ratio
    assert "≥ 0.2" in page.text  # closed_loop_score


def shard(vehicles=("car0", "car1", "car2"), **changes):
    fields = {"summed": vehicles, "attempts": 1, "modulus_bits": 6, "step": 0.1}
    return ShardRecord(vehicles=tuple(vehicles), **(fields | changes))


def test_secure_sums_are_told_with_what_went_wrong_in_them(full_report, run_dir):
    sums = (
        shard(),
        shard(attempts=2),
        shard(("car3", "car4"), summed=(), given_up="2 uploads of 3 <i>"),
        shard(culprits=("car1",)),
    )
    rounds = (dataclasses.replace(full_report.rounds[0], shards=sums), *full_report.rounds[1:])
    masked = dataclasses.replace(
        full_report,
        rounds=rounds,
        update=dataclasses.replace(full_report.update, codec="masked/1", encrypted=True),
        privacy=dataclasses.replace(full_report.privacy, secure_aggregation=True),
    )

    told = html.secure_sums(rounds)
    assert (told.tried, told.done, told.repeated, told.smallest, told.largest) == (4, 3, 1, 3, 3)
    assert told.culprits == ("car1",)
    page = html.render(masked, run_dir)
    assert "nobody: the server learns the sum over a shard of vehicles" in page
    assert "3 of 4 shards summed" in page
    assert "2 uploads of 3 &lt;i&gt;" in page


def test_what_travels_in_the_clear_is_told(full_report):
    assert "example counts" in html.in_the_clear(full_report)
    rounds = tuple(dataclasses.replace(record, per_vehicle={}) for record in full_report.rounds)
    quiet = dataclasses.replace(
        full_report,
        rounds=rounds,
        privacy=dataclasses.replace(full_report.privacy, secure_aggregation=True),
    )
    assert "every vehicle withholds them" in html.in_the_clear(quiet)
    assert "example counts" not in html.in_the_clear(quiet)


def test_bytes_are_told_beside_plain_float32_and_for_every_vehicle(rounds):
    first = dataclasses.replace(
        rounds[0],
        uplink_bytes=20,
        downlink_bytes=10,
        float32_uplink_bytes=100,
        float32_downlink_bytes=200,
        bytes_by_vehicle={"car0": VehicleBytes(uplink=20, downlink=10)},
    )
    plain = html.plain_bytes([first])
    assert (plain.up_share, plain.down_share) == (0.2, 0.05)
    assert html.plain_bytes([]).up_share is None
    used = html.vehicle_bytes([first, first])
    assert (used["car0"].rounds, used["car0"].uplink, used["car0"].downlink) == (2, 40, 20)


def test_where_vehicles_give_scores_to_sums_only_there_is_no_table_of_vehicles(
    full_report, run_dir
):
    final = dataclasses.replace(full_report.final, worst_vehicle=None, per_vehicle={}, summed=3)
    sums = ShardRecord(vehicles=("car0",), summed=("car0",), attempts=1, modulus_bits=2, step=1.0)
    rounds = tuple(
        dataclasses.replace(one, per_vehicle={}, score_sums=(sums,)) for one in full_report.rounds
    )
    text = Page(
        html.render(dataclasses.replace(full_report, final=final, rounds=rounds), run_dir)
    ).text
    assert "3 vehicles give their scores to masked sums only" in text
    assert "every vehicle gives them to masked sums only" in text
    assert "Fleet: accuracy" in text
    assert "Worst vehicle" not in text
    assert "worst served first" not in text


def test_the_page_links_to_the_release_card_where_there_is_one(full_report, run_dir):
    release = dataclasses.replace(full_report.release, card="release/card.html")
    linked = html.render(dataclasses.replace(full_report, release=release), run_dir)

    assert '<a href="release/card.html">Release card</a>' in linked
    assert "Release card" not in html.render(full_report, run_dir)
