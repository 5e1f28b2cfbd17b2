"""What docker-py does with a swarm, against the socket in DOCKER_HOST; prints one JSON object."""
import json
import time

import docker
from docker.types import EndpointSpec, Healthcheck, Mount, Placement, Resources, RestartPolicy
from docker.types import SecretReference, ServiceMode, UpdateConfig

client = docker.from_env()
seen = {}


def wait(what, condition):
    for _ in range(300):
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise SystemExit("no " + what)


seen["state"] = client.info()["Swarm"]["LocalNodeState"]
seen["nodes"] = [node.attrs["Spec"]["Role"] for node in client.nodes.list()]
network = client.networks.create("pynet", driver="overlay", attachable=True, labels={"a": "b"})
secret = client.secrets.create(name="pysecret", data=b"hidden", labels={"a": "b"})
config = client.configs.create(name="pyconfig", data=b"shown")
service = client.services.create(
    "lab:latest",
    name="py",
    labels={"tier": "one"},
    env=["A=1"],
    networks=["pynet"],
    mode=ServiceMode("replicated", replicas=2),
    endpoint_spec=EndpointSpec(ports={8090: 80}),
    restart_policy=RestartPolicy(condition="on-failure", delay=1),
    update_config=UpdateConfig(parallelism=1, order="start-first"),
    resources=Resources(mem_limit=64 << 20),
    healthcheck=Healthcheck(test=["CMD", "true"], interval=1_000_000_000),
    constraints=["node.role==manager"],
    mounts=[Mount(target="/scratch", source=None, type="tmpfs")],
    secrets=[SecretReference(secret.id, "pysecret")],
)


def running(count):
    def are_there():
        tasks = service.tasks({"desired-state": "running"})
        return len([task for task in tasks if task["Status"]["State"] == "running"]) >= count

    return are_there


wait("two tasks", running(2))
service.reload()
seen["version"] = service.version > 0
seen["replicas"] = service.attrs["Spec"]["Mode"]["Replicated"]["Replicas"]
seen["scaled"] = service.scale(3)
wait("three tasks", running(3))
service.reload()
service.update(labels={"tier": "two"})
service.reload()
seen["labels"] = service.attrs["Spec"]["Labels"]
service.force_update()
seen["logs"] = isinstance(b"".join(service.logs(stdout=True, stderr=True)), bytes)
container = client.containers.run(
    "lab:latest", ["/bin/sh", "-c", "wget -qO- http://py/"], network="pynet", remove=True
)
seen["answer"] = b"client=" in container
seen["found"] = [s.name for s in client.services.list(filters={"label": "tier=two"})]
try:
    client.services.create("lab:latest", name="py")
except docker.errors.APIError as error:
    seen["refusal"] = [error.status_code, "name conflicts" in error.explanation]
service.remove()
secret.remove()
config.remove()


def removed():
    try:
        network.remove()
        return True
    except docker.errors.APIError:
        return False


wait("the network to go", removed)
print(json.dumps(seen))
