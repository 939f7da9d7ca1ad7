"""Where a deployed server.toml keeps things, and whether a container would find them there."""

from pathlib import PurePosixPath


def paths_in(config):
    """Every path that a server.toml names."""
    door = config.fleet_door
    named = (door.certificate, door.key, door.ca, config.identity.aggregator)
    more = (config.state, config.runs.folder, config.enrolment.authority)
    return [PurePosixPath(path) for path in (*named, *more) if path]


def not_mounted(config, mounts):
    """What a server.toml names and no mount holds."""
    targets = [PurePosixPath(mount) for mount in mounts]
    return [
        path for path in paths_in(config) if not any(target in path.parents for target in targets)
    ]
