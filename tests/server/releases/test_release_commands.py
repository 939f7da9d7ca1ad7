"""The verbs `convoy release ...`, from the keys to a withdrawn release."""

import json
import tomllib
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from convoy_cli.main import DONE, FAILED, WRONG_USAGE, run
from convoy_server.releases.repository import Lifetimes
from convoy_server.releases.rollout import RolloutBounds
from convoy_server.releases.settings import ReleaseSettings, load_settings
from convoy_simulation.releases.release_stage import MODEL, ReleaseStage

_VERBS = (
    "init",
    "sign",
    "publish",
    "promote",
    "pause",
    "withdraw",
    "list",
    "verify",
    "rotate",
)
_KEYS = [word for n in (1, 2) for word in ("--key", f"keys/targets-{n}.key")]
_ROOT_KEYS = [word for n in (1, 2) for word in ("--root-key", f"keys/root-{n}.key")]


@pytest.fixture
def convoy(tmp_path, monkeypatch, capsys):
    """Run `convoy release ...` in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    module = "convoy_server.releases.commands"
    verbs = [
        EntryPoint(f"release {verb}", f"{module}:release_{verb}", "convoy.commands")
        for verb in _VERBS
    ]

    def call(*words):
        code = run(["release", *words], verbs)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def ready(convoy):
    """`convoy`, with keys and an empty repository."""
    assert convoy("init", "releases", "--keys", "keys")[0] == DONE
    return convoy


def built(model=b"model", *, accepted=True):
    """A release folder as training leaves it."""
    return str(ReleaseStage.release_folder(_Here(), model, accepted=accepted))


class _Here:
    folder = Path()


def published(convoy, model=b"model"):
    """Sign and publish; the name of the release."""
    assert convoy("sign", built(model), *_KEYS)[0] == DONE
    code, out, _ = convoy("publish")
    assert code == DONE
    return out.split(":")[0]


def test_a_release_goes_from_a_folder_to_every_vehicle_and_away_again(ready):
    release = published(ready)
    assert ready("promote", release) == (DONE, f"stable: {release} for canaries\n", "")
    for percent in (1, 5, 25, 100):
        assert ready("promote")[1] == f"stable: {release} for {percent} %\n"
    assert ready("pause")[1] == f"stable: {release} for 100 %, paused\n"
    assert ready("promote")[1] == f"stable: {release} for 100 %\n"
    assert ready("withdraw")[1] == f"stable: {release} is withdrawn\n"
    code, _, said = ready("promote", release)
    assert (code, "was withdrawn: sign its folder again" in said) == (WRONG_USAGE, True)
    assert ready("verify")[0] == DONE


def test_two_signers_sign_one_after_the_other(ready):
    folder = built()
    code, out, _ = ready("sign", folder, "--key", "keys/targets-1.key")
    assert (code, out.splitlines()[-1]) == (DONE, "1 of 2 signatures; next: the next signer")
    code, _, said = ready("publish")
    assert code == FAILED
    assert "1 of 2 signatures; the next signer runs `convoy release sign" in said
    code, out, _ = ready("sign", folder, "--key", "keys/targets-3.key")
    assert out.splitlines()[-1] == "2 of 2 signatures; next: convoy release publish"
    assert ready("publish")[0] == DONE


def test_one_signer_is_not_two(ready):
    ready("sign", built(), "--key", "keys/targets-1.key")
    code, out, _ = ready("sign", "--key", "keys/targets-1.key")
    assert (code, out.splitlines()[-1].split(";")[0]) == (DONE, "1 of 2 signatures")


def test_a_second_signer_with_another_release_is_told(ready):
    ready("sign", built(b"one"), "--key", "keys/targets-1.key")
    code, _, said = ready("sign", built(b"two"), "--key", "keys/targets-2.key")
    assert (code, "not the release that waits" in said) == (WRONG_USAGE, True)
    code, out, _ = ready("sign", built(b"two"), "--anew", "--key", "keys/targets-2.key")
    assert (code, "1 of 2 signatures" in out) == (DONE, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sign", "nowhere", "--key", "keys/targets-1.key"], "nowhere/manifest.json: No such file"),
        (["sign", "--key", "keys/root-1.key"], "is none of its targets keys; use"),
        (["sign", "--key", "keys/targets-9.key"], "targets-9.key: No such file"),
        (["sign"], "--key: name the targets key"),
        (["promote"], "nothing was released on stable yet: name a release"),
        (["promote", "r9"], "no signed release 'r9'; the newest are none"),
        (["pause"], "no channel 'stable'; there are none"),
        (["withdraw", "--channel", "beta"], "no channel 'beta'"),
        (["publish", "--releases", "elsewhere"], "`convoy release init` makes one"),
        (["list", "--releases", "elsewhere"], "`convoy release init` makes one"),
        (["verify", "elsewhere"], "`convoy release init` makes one"),
        (["init", "releases", "--keys", "more"], "holds a repository already"),
        (["init", "others", "--keys", "keys"], "keys are never overwritten"),
        (["rotate", "targets", *_ROOT_KEYS], "rotate it alone, with --old ID and --out FILE"),
        (
            ["rotate", "targets", "--old", "zz", "--out", "n.key", *_ROOT_KEYS],
            "has no single key 'zz'",
        ),
    ],
)
def test_wrong_usage_is_one_line_with_the_way_out(ready, words, said):
    code, _, shown = ready(*words)
    assert code == WRONG_USAGE
    assert said in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--channel", "../x"], "../x: '../x' is no name"),
        (["--tag", "a/b=c"], "stable: 'a/b' is no name"),
        (["--tag", "hardware"], "--tag: expected TAG=VALUE, got 'hardware'"),
    ],
)
def test_a_channel_or_tag_that_could_lead_elsewhere_is_refused(ready, words, said):
    code, _, shown = ready("promote", published(ready), *words)
    assert (code, said in shown) == (WRONG_USAGE, True)


def test_a_refused_release_is_signed_only_on_demand(ready):
    folder = built(accepted=False)
    code, _, said = ready("sign", folder, *_KEYS)
    assert (code, "a gate refused this release" in said) == (FAILED, True)
    assert ready("sign", folder, *_KEYS, "--although-refused")[0] == DONE


def test_a_file_changed_after_the_gates_is_not_signed(ready):
    folder = built()
    Path(folder, MODEL).write_bytes(b"other")
    code, _, said = ready("sign", folder, *_KEYS)
    assert (code, "not the file that manifest.json lists" in said) == (WRONG_USAGE, True)


def test_a_file_changed_while_it_waits_is_not_published(ready):
    ready("sign", built(), *_KEYS)
    (waiting,) = Path("releases/proposal/files").glob(f"*/{MODEL}")
    waiting.write_bytes(b"other")
    code, _, said = ready("publish")
    assert (code, "not the file that was signed" in said) == (WRONG_USAGE, True)


def test_the_minimum_is_raised_and_then_holds(ready):
    old = published(ready, b"old")
    published(ready, b"new")
    assert ready("sign", "--minimum", "2", *_KEYS)[1].startswith(
        "no new release; minimum counter 2"
    )
    assert ready("publish")[0] == DONE
    code, _, said = ready("promote", old)
    assert (code, "below 2, the policy's minimum counter" in said) == (WRONG_USAGE, True)


def test_the_list_is_for_people_and_machines(ready):
    release = published(ready)
    ready("promote", release, "--tag", "hardware=orin", "--tag", "hardware=x86", "--percent", "5")
    code, out, _ = ready("list")
    assert (code, out.splitlines()[:2]) == (
        DONE,
        [f"stable: {release} for 5 %, hardware orin or x86", f"{release}  counter 1  no reports"],
    )
    document = json.loads(ready("list", "--json")[1])
    assert document["channels"][0]["tags"] == {"hardware": ["orin", "x86"]}
    assert document["releases"][0]["counter"] == 1
    assert set(document) == {"minimum_counter", "releases", "channels", "expires"}


def test_verify_names_what_a_vehicle_would_refuse(ready):
    release = published(ready)
    (stored,) = Path("releases/repository/targets/releases", release).glob(f"*.{MODEL}")
    stored.write_bytes(b"other")
    code, out, _ = ready("verify")
    assert (code, out) == (FAILED, f"releases/{release}/{MODEL}: not what was signed\n")
    stored.unlink()
    assert ready("verify")[1] == f"releases/{release}/{MODEL}: missing\n"


def test_keys_with_a_passphrase_need_it(convoy):
    Path("pass").touch(mode=0o600)
    Path("pass").write_text("correct horse battery\n")
    assert convoy("init", "releases", "--keys", "keys", "--passphrase-file", "pass")[0] == DONE
    assert "needs its passphrase" in convoy("sign", built(), *_KEYS)[2]
    assert convoy("sign", built(), *_KEYS, "--passphrase-file", "pass")[0] == DONE


def test_the_servers_keys_are_replaced_after_a_break_in(ready):
    published(ready)
    before = {path.name: path.read_bytes() for path in Path("releases/online").iterdir()}
    words = ["rotate", "channels", "snapshot", "timestamp"]
    code, _, said = ready(*words, *_ROOT_KEYS[:2], *_KEYS)
    assert (code, "2 of the old root keys" in said) == (FAILED, True)
    assert before == {path.name: path.read_bytes() for path in Path("releases/online").iterdir()}
    assert ready(*words, *_ROOT_KEYS, *_KEYS) == (
        DONE,
        "channels, snapshot, timestamp: new keys are in force\n",
        "",
    )
    after = {path.name: path.read_bytes() for path in Path("releases/online").iterdir()}
    assert all(before[name] != after[name] for name in before)
    assert ready("verify")[0] == DONE
    published(ready, b"the next")


def test_a_lost_targets_key_is_replaced(ready):
    lost = Path("keys/targets-3.key")
    root = json.loads(Path("releases/repository/metadata/1.root.json").read_text())
    old = root["signed"]["roles"]["targets"]["keyids"][2]
    lost.unlink()
    words = ["--old", old[:10], "--out", "keys/targets-4.key"]
    assert ready("rotate", "targets", *words, *_ROOT_KEYS, *_KEYS)[0] == DONE
    keys = ["--key", "keys/targets-1.key", "--key", "keys/targets-4.key"]
    assert ready("sign", built(), *keys)[0] == DONE
    assert ready("publish")[0] == DONE


def test_help_of_every_verb_shows_an_example(ready):
    for verb in _VERBS:
        code, out, _ = ready(verb, "--help")
        assert (code, f"convoy release {verb}" in out) == (DONE, True)


def test_settings_lie_beside_the_repository_and_are_read_strictly(ready):
    path = Path("releases/releases.toml")
    assert load_settings(path.parent) == ReleaseSettings()
    assert set(tomllib.loads(path.read_text())["days"]) == set(Lifetimes.__slots__)
    assert set(tomllib.loads(path.read_text())["rollout"]) == set(RolloutBounds.__slots__)
    release = published(ready)
    path.write_text("[rollout]\nmin_bda = 1\n")
    code, _, said = ready("promote", release)
    assert (code, "unknown key 'min_bda'; did you mean 'min_bad'?" in said) == (WRONG_USAGE, True)
    path.write_text("[days\n")
    assert "releases/releases.toml: no valid TOML" in ready("promote", release)[2]
    path.unlink()
    assert ready("promote", release)[0] == DONE


def test_a_stick_is_good_for_as_long_as_was_asked(ready):
    published(ready)
    assert ready("publish") == (DONE, "nothing waits, and all is fresh\n", "")
    assert ready("publish", "--timestamp-days", "14")[1].startswith(
        "nothing waits; what the server"
    )
    expires = json.loads(ready("list", "--json")[1])["expires"]["timestamp"]
    assert (datetime.fromisoformat(expires) - datetime.now(UTC)).days == 13
