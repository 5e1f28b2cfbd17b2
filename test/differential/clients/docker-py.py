"""What docker-py can say to a swarm; prints one JSON object a line: step, and what came back or the error."""
import json
import sys
import time

import docker
from docker.types import ConfigReference, DNSConfig, DriverConfig, EndpointSpec, Healthcheck, Mount
from docker.types import NetworkAttachmentConfig, Placement, PlacementPreference, Privileges, Resources
from docker.types import RestartPolicy, RollbackConfig, SecretReference, ServiceMode, UpdateConfig

client = docker.from_env(timeout=30)
api = client.api


def show(step, call):
    """Errors are compared, too: their class, status and words."""
    try:
        value = call()
    except docker.errors.APIError as error:
        value = [type(error).__name__, error.status_code, error.explanation]
    except Exception as error:  # of the client itself
        value = [type(error).__name__, str(error)]
    print(json.dumps({"step": step, "value": value}, default=str, sort_keys=True))
    sys.stdout.flush()


def wait(condition):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)


def settled(service):
    """Until the allocator and the updater have written what they write."""
    last = None
    for _ in range(50):
        version = service.version
        if version == last:
            return
        last = version
        time.sleep(0.2)
        service.reload()


def without(attrs, *keys):
    return {key: value for key, value in attrs.items() if key not in keys}


started = time.time()
show("ping", client.ping)
show("swarm", lambda: sorted(client.swarm.attrs))
show("swarm version", lambda: client.swarm.version > 0)
show("unlock key", client.swarm.get_unlock_key)
show("unlock", lambda: client.swarm.unlock("SWMKEY-1-abc"))
show("init again", lambda: client.swarm.init("192.168.77.1"))
show("join again", lambda: client.swarm.join(["192.168.77.9:2377"], "x"))
show("leave", client.swarm.leave)
spec = client.swarm.attrs["Spec"]


def tell(limit):
    client.swarm.reload()
    return api.update_swarm(client.swarm.version, dict(spec, Orchestration={"TaskHistoryRetentionLimit": limit}))


show("swarm update", lambda: tell(4))
client.swarm.reload()
show("swarm spec", lambda: client.swarm.attrs["Spec"]["Orchestration"])
show("swarm update, stale", lambda: api.update_swarm(1, spec))
show("swarm update back", lambda: tell(5))

node = client.nodes.list()[0]
show("nodes", lambda: [one.attrs for one in client.nodes.list(filters={"role": "manager"})])
show("node", lambda: client.nodes.get(node.id).attrs["Description"]["Hostname"])
show("no node", lambda: client.nodes.get("nosuch"))
show("node update", lambda: node.update({"Availability": "active", "Role": "manager", "Labels": {"py": "1"}}))
node.reload()
show("node labels", lambda: node.attrs["Spec"])
show("node update, stale", lambda: api.update_node(node.id, 1, {"Availability": "active", "Role": "manager"}))
show("node update back", lambda: node.update({"Availability": "active", "Role": "manager"}))
show("node remove", lambda: api.remove_node(node.id))

secret = client.secrets.create(name="pys", data=b"hidden", labels={"a": "b"})
config = client.configs.create(name="pyc", data=b"shown", labels={"a": "b"})
show("secret", lambda: client.secrets.get(secret.id).attrs)
show("secrets", lambda: [one.name for one in client.secrets.list(filters={"name": "pys"})])
show("secrets by label", lambda: [one.name for one in client.secrets.list(filters={"label": ["a=c"]})])
show("secrets by names", lambda: [one.name for one in client.secrets.list(filters={"names": ["pys"]})])
show("secret twice", lambda: client.secrets.create(name="pys", data=b"x"))
show("no secret", lambda: client.secrets.get("nosuch"))
show("config", lambda: client.configs.get(config.id).attrs)
show("configs", lambda: [one.name for one in client.configs.list(filters={"id": config.id})])
show("no config", lambda: client.configs.get("nosuch"))

network = client.networks.create("pyn", driver="overlay", attachable=True, labels={"a": "b"}, options={"x": "y"})
wait(lambda: client.networks.get(network.id).attrs["Driver"] == "overlay")
show("network", lambda: without(client.networks.get(network.id).attrs, "IPAM", "Options"))
show("networks", lambda: [one.name for one in client.networks.list(names=["pyn"])])
show("networks, filters", lambda: [one.name for one in client.networks.list(filters={"driver": "overlay", "label": "a=b"})])
show("networks, greedy", lambda: [sorted(one.attrs) for one in client.networks.list(names=["pyn"], greedy=True)])
show("network twice", lambda: client.networks.create("pyn", driver="overlay", check_duplicate=True))
show("network by scope", lambda: client.networks.get("pyn", scope="swarm").attrs["Scope"])
show("network, verbose", lambda: client.networks.get("pyn", verbose=True).attrs["Name"])
show("no network", lambda: client.networks.get("nosuch"))

full = dict(
    command=["serve"], args=["-x"], constraints=["node.labels.no==1"],
    preferences=[PlacementPreference("spread", "node.labels.zone")], maxreplicas=3,
    platforms=[("x86_64", "linux")], container_labels={"c": "d"},
    endpoint_spec=EndpointSpec(mode="vip", ports={8201: (80, "tcp"), 8202: (81, "udp", "host")}),
    env=["A=1", "B"], hostname="h-{{.Task.Slot}}", init=True, isolation="default", labels={"l": "m"},
    log_driver="json-file", log_driver_options={"max-size": "1m"}, mode=ServiceMode("replicated", 2),
    mounts=[
        Mount("/t", None, type="tmpfs", tmpfs_size=1000000, tmpfs_mode=0o700),
        Mount("/v", "vol", type="volume", no_copy=True, labels={"a": "b"}, driver_config=DriverConfig("local", {"o": "1"})),
        Mount("/b", "/tmp", type="bind", read_only=True, propagation="rslave"),
        "plain:/plain:ro",
    ],
    name="pyfull", networks=[NetworkAttachmentConfig("pyn", aliases=["x"], options={"o": "p"})],
    resources=Resources(cpu_limit=500000000, mem_limit=50000000, cpu_reservation=1000000, mem_reservation=5000000, generic_resources={"GPU": 1}),
    restart_policy=RestartPolicy(condition="on-failure", delay=1000000000, max_attempts=2, window=3000000000),
    secrets=[SecretReference(secret.id, "pys", "target", "5", "6", 0o400)],
    stop_grace_period=3000000000,
    update_config=UpdateConfig(2, 1000000000, "rollback", 2000000000, 0.5, "start-first"),
    user="1000", workdir="/w", tty=True, groups=["g"], open_stdin=True, read_only=True, stop_signal="SIGINT",
    healthcheck=Healthcheck(test="true", interval=1000000000, timeout=1000000000, retries=2, start_period=1000000),
    hosts={"db": "10.99.0.5"}, dns_config=DNSConfig(nameservers=["10.99.0.1"], search=["a.b"], options=["ndots:1"]),
    configs=[ConfigReference(config.id, "pyc", "/etc/pyc", "1", "2", 0o440)],
    privileges=Privileges(selinux_disable=True), cap_add=["CAP_NET_ADMIN"], cap_drop=["CAP_CHOWN"],
)
show("service, everything", lambda: client.services.create("lab:latest", **full).name)
service = client.services.get("pyfull")
settled(service)
show("service spec", lambda: service.attrs["Spec"])
show("service, defaults", lambda: client.services.get("pyfull", insert_defaults=True).attrs["Spec"])
show("service tasks", lambda: sorted(task["Slot"] for task in service.tasks()))
show("service tasks, filters", lambda: len(service.tasks({"desired-state": "shutdown"})))
show("service update", lambda: service.update(labels={"l": "n"}, env=["A=2"]))
settled(service)
show("service after update", lambda: service.attrs["Spec"])
show("service previous", lambda: service.attrs["PreviousSpec"]["Labels"])
show("service update, stale", lambda: api.update_service(service.id, 1, name="pyfull"))
show("service renamed", lambda: service.update(name="other"))
show("service scale", lambda: service.scale(1))
settled(service)
show("service forced", lambda: service.force_update())
settled(service)
show("service force count", lambda: service.attrs["Spec"]["TaskTemplate"]["ForceUpdate"])
show("services", lambda: [one.name for one in client.services.list(filters={"mode": "replicated", "label": "l=n"})])
show("services, status", lambda: [one.attrs.get("ServiceStatus") for one in client.services.list(status=True)])
show("no service", lambda: client.services.get("nosuch"))
show("service twice", lambda: client.services.create("lab:latest", name="pyfull"))
show("service, mode", lambda: ServiceMode("nosuch"))
show("secret in use", secret.remove)
show("config in use", config.remove)
show("network in use", network.remove)
service.remove()
show("service removed", service.reload)

glob = client.services.create("lab:latest", name="pyglob", mode="global", constraints=["node.labels.no==1"])
show("global, scale", lambda: glob.scale(3))
show("global, mode", lambda: client.services.get("pyglob").attrs["Spec"]["Mode"])
glob.remove()
rolled = api.create_service(
    docker.types.TaskTemplate(docker.types.ContainerSpec("lab:latest")), name="pyroll", mode=ServiceMode("replicated", 0),
    rollback_config=RollbackConfig(2, 1000000000, "continue", 2000000000, 0.5, "stop-first"),
)
show("rollback config", lambda: api.inspect_service(rolled["ID"])["Spec"]["RollbackConfig"])
show("removed by the API", lambda: api.remove_service(rolled["ID"]))

talk = client.services.create("lab:latest", ["sh", "-c", "echo one; echo two >&2; sleep 600"], name="pytalk", stop_grace_period=1000000000)
wait(lambda: [task for task in talk.tasks() if task["Status"]["State"] == "running"])
wait(lambda: b"two" in b"".join(talk.logs(stdout=True, stderr=True)))
show("logs", lambda: sorted(b"".join(talk.logs(stdout=True, stderr=True)).decode().split()))
show("logs, stdout", lambda: b"".join(talk.logs(stdout=True)).decode())
show("logs, tail", lambda: b"".join(talk.logs(stdout=True, stderr=True, tail=1)).decode().count("\n"))
show("logs, nothing chosen", lambda: b"".join(talk.logs()).decode())
show("logs, timestamps", lambda: len(b"".join(talk.logs(stdout=True, timestamps=True)).decode().split()))
show("logs, followed", lambda: next(iter(talk.logs(stdout=True, follow=True))).decode())
task = talk.tasks({"desired-state": "running"})[0]
show("task", lambda: sorted(api.inspect_task(task["ID"])))
show("task status", lambda: sorted(api.inspect_task(task["ID"])["Status"]))
show("task container", lambda: sorted(api.inspect_task(task["ID"])["Status"]["ContainerStatus"]))
show("tasks", lambda: [one["Status"]["State"] for one in api.tasks({"id": task["ID"]})])
show("no task", lambda: api.inspect_task("nosuch"))
show("tasks of no service", lambda: api.tasks({"service": "nosuch"}))
box = client.containers.get(task["Status"]["ContainerStatus"]["ContainerID"])
show("exec", lambda: box.exec_run(["sh", "-c", "echo inside; sleep 0.3"]).output.decode())
show("container", lambda: [box.status, box.labels["com.docker.swarm.service.name"]])
show("containers", lambda: [one.status for one in client.containers.list(filters={"label": "com.docker.swarm.service.name=pytalk"})])
show("containers that are tasks", lambda: len(client.containers.list(filters={"is-task": True, "label": "com.docker.swarm.service.name=pytalk"})))
show("top", lambda: box.top()["Titles"][0])
show("stats", lambda: sorted(box.stats(stream=False))[:3])
talk.remove()

one = client.containers.run("lab:latest", ["serve"], network="pyn", detach=True, name="pybox")
show("containers by network", lambda: [c.name for c in client.containers.list(filters={"network": network.id})])
show("disconnect", lambda: network.disconnect("pybox"))
show("connect", lambda: network.connect("pybox", aliases=["again"]))
show("container's networks", lambda: sorted(client.containers.get("pybox").attrs["NetworkSettings"]["Networks"]))
one.remove(force=True)
show("prune", lambda: client.networks.prune(filters={"label": "nosuch"}))

ended = time.time() + 0.5
time.sleep(0.6)
kinds = ["service", "node", "secret", "config"]
events = [
    (event["Type"], event["Action"], event["scope"], sorted(event["Actor"]["Attributes"]))
    for event in client.events(since=started, until=ended, decode=True, filters={"type": kinds, "event": ["create", "remove"]})
]
show("events", lambda: sorted(events))
secret.remove()
config.remove()
show("secret removed", secret.reload)
show("df", lambda: sorted(client.df()))
show("info", lambda: client.info()["Swarm"]["LocalNodeState"])
show("version", lambda: client.version()["ApiVersion"])
