"""The Helm chart: what it writes is understood, mounted and closed.

Helm's own library renders it and Kubernetes' schemas judge it where they are (`make deploy-check`);
the rest reads the templates as text, everywhere.
"""

import json
import re
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml
from deployed_paths import not_mounted

from convoy_server.service.server_config import server_config_from_table

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "kubernetes" / "convoy-server"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
TEMPLATES = {path.name: path.read_text() for path in (CHART / "templates").iterdir()}
PUBLIC = "convoy.example.org:9091"
NOT_INSTALLED = "not installed: make deploy-check"


def value(path):
    """The default of `.Values.PATH`; of publicAddress, which has none, an example."""
    found = VALUES | {"publicAddress": PUBLIC}
    for key in path.split("."):
        found = found[key]
    return found


def server_toml():
    """As Helm writes it: every expression in it inserts one value."""
    text = textwrap.dedent(TEMPLATES["configmap.yaml"].partition("server.toml: |\n")[2])
    return re.sub(
        r"\{\{ [^}]*\.Values\.([\w.]+)[^}]*\}\}", lambda found: json.dumps(value(found[1])), text
    )


def config_of(text):
    return server_config_from_table(tomllib.loads(text), "server.toml", Path("/etc/convoy"))


def ports_of(config):
    """Those that leave the pod, by the names that the chart gives them."""
    return {
        "fleet": config.fleet_door.port,
        "services": config.services.port,
        "metrics": config.metrics.port,
    }


def test_server_toml_is_understood():
    config = config_of(server_toml())
    assert config.enrolment.public_address == PUBLIC
    assert config.runs.keep_free_mb == VALUES["runs"]["keepFreeMb"]


def test_the_ports_are_those_of_server_toml():
    ports = ports_of(config_of(server_toml()))
    named = {
        name: int(port)
        for name, port in re.findall(
            r"name: (\w+), containerPort: (\d+)", TEMPLATES["deployment.yaml"]
        )
    }
    assert named == ports
    # Tokens name the services' port, so it must be the same from outside.
    assert f"port: {ports['services']}, targetPort: services" in TEMPLATES["service.yaml"]
    assert f"port: {ports['metrics']}, targetPort: metrics" in TEMPLATES["metrics.yaml"]
    assert VALUES["service"]["fleetPort"] == ports["fleet"]


def test_the_pod_is_not_root_and_owns_what_the_image_owns():
    image = (ROOT / "deploy" / "docker" / "Dockerfile.server").read_text()
    user = re.search(r"^USER (\d+)$", image, re.MULTILINE)[1]
    pod = TEMPLATES["deployment.yaml"]
    assert "runAsNonRoot: true" in pod
    assert re.findall(r"(?:runAsUser|runAsGroup|fsGroup): (\d+)", pod) == [user] * 3
    # Otherwise every start opens the state to the group, which `convoy server --check` complains of.
    assert "fsGroupChangePolicy: OnRootMismatch" in pod


def test_every_value_is_used_and_every_used_value_is_there():
    used = set(re.findall(r"\.Values\.([\w.]+)", "".join(TEMPLATES.values())))
    for path in used:
        value(path)
    unused = [
        leaf for leaf in leaves(VALUES) if not any(f"{leaf}.".startswith(f"{path}.") for path in used)
    ]  # fmt: skip
    assert unused == []


def leaves(values, above=""):
    """Paths of the values that hold no others."""
    for key, one in values.items():
        if isinstance(one, dict) and one:
            yield from leaves(one, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def test_the_version_is_that_of_the_package():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (package, package)


@pytest.fixture(scope="module")
def chart():
    """The chart, read by Helm itself."""
    helm = pytest.importorskip("helm_python", reason=NOT_INSTALLED)
    with helm.Chart.load(str(CHART)) as chart:
        yield chart


@pytest.fixture(scope="module")
def rendered(chart):
    """Objects of the chart, with all that can be switched on."""
    files = chart.render(
        {"publicAddress": PUBLIC, "serviceMonitor": {"enabled": True}}, name="fleet"
    )
    objects = [
        one
        for path, text in files.items()
        if path.endswith(".yaml")
        for one in yaml.safe_load_all(text)
        if one
    ]
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in objects}


def test_helm_finds_no_fault():
    helm = pytest.importorskip("helm_python.chart", reason=NOT_INSTALLED)
    found = helm.lint(str(CHART), values={"publicAddress": PUBLIC})
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


def test_a_chart_without_a_public_address_is_refused(chart):
    with pytest.raises(Exception, match="publicAddress is what vehicles dial"):
        chart.render({}, name="fleet")


def test_it_holds_what_a_server_needs(rendered):
    assert set(rendered) == {
        "ConfigMap/fleet",
        "Deployment/fleet",
        "NetworkPolicy/fleet",
        "PersistentVolumeClaim/fleet",
        "Service/fleet",
        "Service/fleet-metrics",
        "ServiceMonitor/fleet",
    }


def test_kubernetes_takes_every_object(rendered):
    schemas = pytest.importorskip("kubernetes_validate", reason=NOT_INSTALLED)
    for name, one in rendered.items():
        if one["kind"] != "ServiceMonitor":  # of the Prometheus operator, not of Kubernetes
            assert schemas.validate(one, schemas.latest_version(), strict=True), name


def test_rendered_server_toml_is_the_one_that_these_tests_read(rendered):
    assert config_of(rendered["ConfigMap/fleet"]["data"]["server.toml"]) == config_of(server_toml())


def test_what_server_toml_names_is_mounted_and_what_is_mounted_is_there(rendered):
    config = config_of(rendered["ConfigMap/fleet"]["data"]["server.toml"])
    pod = rendered["Deployment/fleet"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert not_mounted(config, [mount["mountPath"] for mount in server["volumeMounts"]]) == []
    there = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["initContainers"], server):
        assert {mount["name"] for mount in container["volumeMounts"]} <= there


def test_no_container_may_become_more_than_it_is(rendered):
    pod = rendered["Deployment/fleet"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_services_lead_to_the_pod_and_the_private_door_is_in_none(rendered):
    template = rendered["Deployment/fleet"]["spec"]["template"]
    (server,) = template["spec"]["containers"]
    open_ports = {port["name"] for port in server["ports"]}
    for name in ("Service/fleet", "Service/fleet-metrics"):
        spec = rendered[name]["spec"]
        assert spec["selector"].items() <= template["metadata"]["labels"].items()
        assert {port["targetPort"] for port in spec["ports"]} <= open_ports
    assert [port["name"] for port in rendered["Service/fleet"]["spec"]["ports"]] == [
        "fleet",
        "services",
    ]
    private = config_of(server_toml()).private_door.port
    assert str(private) not in json.dumps(rendered)


def test_only_prometheus_reaches_the_metrics_and_the_pod_reaches_nobody(rendered):
    policy = rendered["NetworkPolicy/fleet"]["spec"]
    vehicles, prometheus = policy["ingress"]
    assert "from" not in vehicles
    assert {port["port"] for port in vehicles["ports"]} == {"fleet", "services"}
    assert prometheus["from"]
    assert [port["port"] for port in prometheus["ports"]] == ["metrics"]
    assert policy["egress"] == []


def test_prometheus_finds_the_metrics(rendered):
    monitor = rendered["ServiceMonitor/fleet"]["spec"]
    service = rendered["Service/fleet-metrics"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    vehicles = rendered["Service/fleet"]["metadata"]["labels"]
    assert not monitor["selector"]["matchLabels"].items() <= vehicles.items()
