"""The verbs `convoy release ...`: from a folder that training left to a model on the vehicles."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convoy_protos.errors import JobFailedError, UsageError

if TYPE_CHECKING:
    from convoy_privacy.releases.signed_texts import ChannelPointer
    from convoy_server.releases.channels import ReleaseChannels
    from convoy_server.releases.inspection import Overview
    from convoy_server.releases.proposal import Proposal

ReleasesOption = Annotated[
    Path, typer.Option(metavar="DIR", help="As `convoy release init` made it.")
]
KeysOption = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="targets-N.key; may be repeated.")
]
PassphraseOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its first line protects the offline keys.")
]
ChannelOption = Annotated[str, typer.Option(help="Whose vehicles.")]
_RELEASES = Path("releases")


class _RotatedRole(Enum):
    """Whose key `convoy release rotate` replaces."""

    ROOT = "root"
    TARGETS = "targets"
    CHANNELS = "channels"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"


def release_init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="For the repository; new.")],
    keys: Annotated[
        Path, typer.Option(metavar="DIR", help="For the six offline keys; new or empty.")
    ],
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a repository of releases and the keys that vehicles will trust.

    Move the six offline keys to six safe places: two root keys replace any key, two targets keys sign a
    release. DIR/online stays on the server. Vehicles get DIR/repository/metadata/1.root.json when they
    join.

    Example:
        convoy release init releases --keys release-keys
    """
    from convoy_server.releases.release_keys import (
        ONLINE_FOLDER,
        generate_offline_keys,
        generate_online_keys,
        save_offline_keys,
        save_online_keys,
    )
    from convoy_server.releases.repository import REPOSITORY_FOLDER, found
    from convoy_server.releases.settings import load_settings, write_settings

    offline, online = generate_offline_keys(), generate_online_keys()
    if (directory / REPOSITORY_FOLDER).exists():
        raise UsageError(f"{directory}: holds a repository already; choose another folder")
    save_offline_keys(keys, offline, _passphrase(passphrase_file))
    save_online_keys(directory / ONLINE_FOLDER, online)
    write_settings(directory)
    found(directory, offline, online, _now(), load_settings(directory).days)
    print(f"{directory}: a repository without releases")
    print(f"{keys}: six offline keys; move each to a place of its own")


def release_sign(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="RELEASE", help="A run's release folder, such as runs/demo/release."
        ),
    ] = None,
    releases: ReleasesOption = _RELEASES,
    key: KeysOption = None,
    *,
    minimum: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="From now on, no vehicle drives a counter below N."),
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Forget what waits for signatures.")] = False,
    although_refused: Annotated[
        bool, typer.Option("--although-refused", help="Also if a gate refused the release.")
    ] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Propose a release, or add a signature to what waits. Two of three targets keys must sign.

    The first signer proposes; the next one signs what waits, and with RELEASE only if it is the same.
    Without RELEASE and with nothing waiting, the signed list is renewed, which it needs every 90 days.

    Example:
        convoy release sign runs/demo/release --key targets-1.key
        convoy release sign runs/demo/release --key targets-2.key
    """
    from convoy_server.releases import proposal
    from convoy_server.releases.release_keys import load_keys
    from convoy_server.releases.repository import locked
    from convoy_server.releases.settings import load_settings

    if not key:
        raise UsageError("--key: name the targets key that signs")
    signers = load_keys(key, _passphrase(passphrase_file))
    source = None if folder is None else proposal.read_source(folder)
    if source is not None and not source.accepted and not although_refused:
        raise JobFailedError(
            f"{folder}: a gate refused this release, see its manifest.json; --although-refused signs it"
        )
    with locked(releases):
        proposal.check_signers(releases, signers)
        if anew:
            proposal.drop(releases)
        if not proposal.waits(releases):
            proposal.propose(
                releases, source, _now(), load_settings(releases).days, minimum_counter=minimum
            )
        elif minimum is not None:
            raise UsageError("--minimum: something waits for signatures already; add --anew")
        elif source is not None:
            proposal.check_same(proposal.load_proposal(releases), source)
        _show(proposal.countersign(releases, signers))


def release_publish(
    releases: ReleasesOption = _RELEASES,
    timestamp_days: Annotated[
        int | None,
        typer.Option(
            min=1, max=365, help="How long a copy, as on a stick, is good for; else as set."
        ),
    ] = None,
) -> None:
    """Put what was signed into the repository, and renew what the server signs.

    No vehicle installs it before `convoy release promote`.

    Example:
        convoy release publish
    """
    from convoy_server.releases import proposal
    from convoy_server.releases.key_rotation import server_keys
    from convoy_server.releases.publication import renew
    from convoy_server.releases.repository import REPOSITORY_FOLDER, locked
    from convoy_server.releases.settings import load_settings

    lifetimes = load_settings(releases).days
    if timestamp_days is not None:
        lifetimes = replace(lifetimes, timestamp=timestamp_days)
    with locked(releases):
        keys = server_keys(releases)
        if proposal.waits(releases):
            done = proposal.publish(releases, keys, _now(), lifetimes)
            what = "the signed list" if done.new is None else done.new.release
            print(f"{what}: published, {done.signatures} of {done.threshold} signatures")
        elif renew(releases / REPOSITORY_FOLDER, keys, _now(), lifetimes):
            print("nothing waits; what the server signs is renewed")
        else:
            print("nothing waits, and all is fresh")


def release_promote(
    release: Annotated[
        str | None, typer.Argument(help="Its name; else the channel's, on to its next stage.")
    ] = None,
    channel: ChannelOption = "stable",
    releases: ReleasesOption = _RELEASES,
    *,
    percent: Annotated[
        int | None, typer.Option(min=0, max=100, help="Instead of the next stage.")
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG=VALUE", help="Only vehicles with it; may be repeated."),
    ] = None,
    although_failing: Annotated[
        bool,
        typer.Option("--although-failing", help="Also if the vehicles' reports are against it."),
    ] = False,
) -> None:
    """Let more vehicles have a release: canaries, then 1, 5, 25 and 100 percent.

    Another release begins with the canaries; the same one goes on to the next stage, or on from a pause.

    Example:
        convoy release promote r0007-5f3a01bc
        convoy release promote --percent 25 --tag hardware=jetson-orin
    """
    from convoy_server.releases.repository import locked

    with locked(releases):
        pointer = _channels(releases).promote(
            channel,
            release,
            _now(),
            percent=percent,
            tags=None if tag is None else _tags(tag),
            although=although_failing,
        )
    print(_line(pointer))


def release_pause(channel: ChannelOption = "stable", releases: ReleasesOption = _RELEASES) -> None:
    """Let no further vehicle begin; `convoy release promote` goes on.

    Example:
        convoy release pause --channel stable
    """
    from convoy_server.releases.repository import locked

    with locked(releases):
        pointer = _channels(releases).pause(channel, _now())
    print(_line(pointer))


def release_withdraw(
    release: Annotated[str | None, typer.Argument(help="Its name; else the channel's.")] = None,
    channel: ChannelOption = "stable",
    releases: ReleasesOption = _RELEASES,
) -> None:
    """Let nobody try a release any more; vehicles in trial go back.

    Vehicles that have committed to it keep it: sign an earlier release's folder again for those, or forbid
    it with `convoy release sign --minimum`.

    Example:
        convoy release withdraw r0007-5f3a01bc
    """
    from convoy_server.releases.repository import locked

    with locked(releases):
        pointer = _channels(releases).withdraw(channel, release, _now())
    print(_line(pointer))


def release_list(
    releases: ReleasesOption = _RELEASES,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say which releases are signed, who gets which, and how vehicles fared.

    Example:
        convoy release list --json
    """
    from convoy_server.releases.inspection import contract, overview

    found = overview(releases)
    if as_json:
        print(json.dumps(contract(found), indent=2))
        return
    for line in _lines(found, _now()):
        print(line)


def release_verify(
    repository: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="A copy of the repository; else RELEASES/repository."),
    ] = None,
    releases: ReleasesOption = _RELEASES,
) -> None:
    """Check a repository, or a stick, as a vehicle would: signatures, dates, every file.

    Example:
        convoy release verify /media/stick
    """
    from convoy_server.releases.inspection import faults
    from convoy_server.releases.repository import REPOSITORY_FOLDER

    folder = repository or releases / REPOSITORY_FOLDER
    found = list(faults(folder, _now()))
    for fault in found:
        print(fault)
    if found:
        raise JobFailedError(f"{folder}: {len(found)} to mend")
    print(f"{folder}: a vehicle takes it")


def release_rotate(
    role: Annotated[list[_RotatedRole], typer.Argument(help="Whose keys; online ones together.")],
    releases: ReleasesOption = _RELEASES,
    root_key: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="root-N.key; two are needed.")
    ] = None,
    key: KeysOption = None,
    *,
    old: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the offline key that goes, or its start.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For the offline key that comes.")
    ] = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Replace keys that were lost, stolen or are old. Vehicles follow by themselves.

    After a break-in on the server, replace its three keys: that also ends a fast-forward attack. A key of
    root or targets is replaced one at a time: --old names it, --out takes the new one.

    Example:
        convoy release rotate channels snapshot timestamp --root-key root-1.key --root-key root-2.key --key targets-1.key --key targets-2.key
        convoy release rotate targets --old 4f1c --out targets-4.key --root-key root-1.key --root-key root-2.key --key targets-1.key --key targets-2.key
    """
    from convoy_server.releases import key_rotation
    from convoy_server.releases.release_keys import ONLINE_ROLES, load_keys
    from convoy_server.releases.repository import locked
    from convoy_server.releases.settings import load_settings

    roles = sorted({one.value for one in role})
    passphrase = _passphrase(passphrase_file)
    root_signers = load_keys(root_key or (), passphrase)
    targets_signers = load_keys(key or (), passphrase)
    offline = [one for one in roles if one not in ONLINE_ROLES]
    if offline and (len(roles) > 1 or old is None or out is None):
        raise UsageError(f"{offline[0]}: rotate it alone, with --old ID and --out FILE")
    days = load_settings(releases).days
    with locked(releases):
        if offline:
            key_rotation.replace_offline_key(
                releases,
                offline[0],
                _now(),
                days,
                old=old or "",
                out=out or Path(),
                root_signers=root_signers,
                targets_signers=targets_signers,
                passphrase=passphrase,
            )
        else:
            key_rotation.replace_online_keys(
                releases,
                roles,
                _now(),
                days,
                root_signers=root_signers,
                targets_signers=targets_signers,
            )
    print(f"{', '.join(roles)}: new keys are in force")


def _channels(releases: Path) -> "ReleaseChannels":
    from convoy_server.releases.channels import ReleaseChannels
    from convoy_server.releases.key_rotation import server_keys
    from convoy_server.releases.settings import load_settings

    settings = load_settings(releases)
    return ReleaseChannels(releases, server_keys(releases), settings.days, settings.rollout)


def _show(waiting: "Proposal") -> None:
    if waiting.new is None:
        print(f"no new release; minimum counter {waiting.minimum_counter}")
    else:
        print(f"{waiting.new.release}  counter {waiting.new.counter}")
        for name, target in sorted(waiting.new.files.items()):
            print(f"  {name}  {target.length} bytes  sha256 {target.hashes['sha256']}")
    following = "convoy release publish" if waiting.complete else "the next signer"
    print(f"{waiting.signatures} of {waiting.threshold} signatures; next: {following}")


def _line(pointer: "ChannelPointer") -> str:
    if pointer.release in pointer.withdrawn:
        return f"{pointer.channel}: {pointer.release} is withdrawn"
    whom = f"{pointer.percent} %" if pointer.percent else "canaries"
    tags = "".join(f", {tag} {' or '.join(values)}" for tag, values in pointer.tags.items())
    state = ", paused" if pointer.state == "paused" else ""
    return f"{pointer.channel}: {pointer.release} for {whom}{tags}{state}"


def _lines(found: "Overview", now: datetime) -> list[str]:
    lines = [_line(pointer) for _, pointer in sorted(found.channels.items())]
    for one in found.releases:
        counts = ", ".join(
            f"{number} {outcome.value.replace('_', ' ')}"
            for outcome, number in found.counts[one.release].items()
            if number
        )
        below = "  below the minimum" if one.counter < found.minimum_counter else ""
        lines.append(f"{one.release}  counter {one.counter}{below}  {counts or 'no reports'}")
    lines += [
        f"{role}: {'expired' if expires <= now else 'good until'} {expires:%Y-%m-%d %H:%M} UTC"
        for role, expires in found.expires.items()
    ]
    return lines


def _tags(words: list[str]) -> dict[str, tuple[str, ...]]:
    tags: dict[str, tuple[str, ...]] = {}
    for word in words:
        tag, equals, value = word.partition("=")
        if not (tag and equals and value):
            raise UsageError(f"--tag: expected TAG=VALUE, got {word!r}")
        tags[tag] = (*tags.get(tag, ()), value)
    return tags


def _passphrase(path: Path | None) -> bytes | None:
    from convoy_privacy.key_files import read_passphrase

    return None if path is None else read_passphrase(path)


def _now() -> datetime:
    return datetime.now(UTC)
