// The Go client as tools use it, unchanged, against a swarm of one manager: prints what it saw as
// JSON for scripts/go-client.ts. Any error ends it with its text.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
)

const (
	waitMax  = 30 * time.Second
	waitStep = 100 * time.Millisecond
	image    = "lab:latest"
)

var seen = map[string]interface{}{}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// until asks again and again, for a bounded time, whether something is so.
func until(what string, isSo func() bool) {
	for end := time.Now().Add(waitMax); !isSo(); time.Sleep(waitStep) {
		if time.Now().After(end) {
			must(fmt.Errorf("not so within %s: %s", waitMax, what))
		}
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	defer cancel()
	cli, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	must(err)
	defer cli.Close()

	ping, err := cli.Ping(ctx)
	must(err)
	seen["negotiated"] = cli.ClientVersion() == ping.APIVersion || cli.ClientVersion() < ping.APIVersion
	info, err := cli.Info(ctx)
	must(err)
	seen["state"] = info.Swarm.LocalNodeState

	events, eventErrors := watch(ctx, cli)
	cluster, err := cli.SwarmInspect(ctx)
	must(err)
	seen["cluster"] = cluster.ID == info.Swarm.Cluster.ID && cluster.JoinTokens.Worker != ""

	network := makeNetwork(ctx, cli)
	secretID, configID := makeData(ctx, cli)
	serviceID := makeService(ctx, cli, network, secretID, configID)
	seen["scaled"] = scale(ctx, cli, serviceID)
	seen["logs"] = readLogs(ctx, cli, serviceID)
	seen["labels"] = labelNode(ctx, cli, info.Swarm.NodeID)
	refusals(ctx, cli, secretID)

	must(cli.ServiceRemove(ctx, serviceID))
	until("the service has gone", func() bool {
		_, _, err := cli.ServiceInspectWithRaw(ctx, serviceID, types.ServiceInspectOptions{})
		return client.IsErrNotFound(err)
	})
	must(cli.SecretRemove(ctx, secretID))
	must(cli.ConfigRemove(ctx, configID))
	until("the network can go", func() bool { return cli.NetworkRemove(ctx, network) == nil })

	told := map[string]bool{}
	until("the events", func() bool {
		select {
		case event := <-events:
			told[event] = true
		case err := <-eventErrors:
			must(err)
		default:
		}
		return told["service create"] && told["service update"] && told["service remove"] &&
			told["secret create"] && told["config create"] && told["network create"] && told["node update"]
	})
	seen["events"] = true
	must(json.NewEncoder(os.Stdout).Encode(seen))
}

// watch gives "type action" of each event of the cluster.
func watch(ctx context.Context, cli *client.Client) (<-chan string, <-chan error) {
	told := make(chan string, 1000)
	messages, errors := cli.Events(ctx, types.EventsOptions{
		Filters: filters.NewArgs(filters.Arg("scope", "swarm")),
	})
	go func() {
		for message := range messages {
			told <- message.Type + " " + message.Action
		}
	}()
	return told, errors
}

func makeNetwork(ctx context.Context, cli *client.Client) string {
	made, err := cli.NetworkCreate(ctx, "go-net", types.NetworkCreate{
		CheckDuplicate: true,
		Driver:         "overlay",
		Attachable:     true,
		Labels:         map[string]string{"go": "yes"},
	})
	must(err)
	listed, err := cli.NetworkList(ctx, types.NetworkListOptions{
		Filters: filters.NewArgs(filters.Arg("label", "go=yes")),
	})
	must(err)
	shown, err := cli.NetworkInspect(ctx, "go-net", types.NetworkInspectOptions{Scope: "swarm", Verbose: true})
	must(err)
	seen["network"] = len(listed) == 1 && shown.ID == made.ID && shown.Driver == "overlay" && shown.Attachable
	return made.ID
}

func makeData(ctx context.Context, cli *client.Client) (string, string) {
	annotations := swarm.Annotations{Name: "go-data", Labels: map[string]string{"go": "yes"}}
	secret, err := cli.SecretCreate(ctx, swarm.SecretSpec{Annotations: annotations, Data: []byte("hidden")})
	must(err)
	config, err := cli.ConfigCreate(ctx, swarm.ConfigSpec{Annotations: annotations, Data: []byte("shown")})
	must(err)
	secrets, err := cli.SecretList(ctx, types.SecretListOptions{
		Filters: filters.NewArgs(filters.Arg("name", "go-data")),
	})
	must(err)
	configs, err := cli.ConfigList(ctx, types.ConfigListOptions{
		Filters: filters.NewArgs(filters.Arg("label", "go")),
	})
	must(err)
	seen["data"] = len(secrets) == 1 && secrets[0].Spec.Data == nil &&
		len(configs) == 1 && string(configs[0].Spec.Data) == "shown"
	before, _, err := cli.SecretInspectWithRaw(ctx, secret.ID)
	must(err)
	before.Spec.Labels["more"] = "yes"
	must(cli.SecretUpdate(ctx, secret.ID, before.Version, before.Spec))
	return secret.ID, config.ID
}

func makeService(ctx context.Context, cli *client.Client, network, secretID, configID string) string {
	two, grace := uint64(2), time.Second
	file := func(name string) (string, string, string, os.FileMode) { return name, "0", "0", 0o444 }
	secretFile, configFile := &swarm.SecretReferenceFileTarget{}, &swarm.ConfigReferenceFileTarget{}
	secretFile.Name, secretFile.UID, secretFile.GID, secretFile.Mode = file("s")
	configFile.Name, configFile.UID, configFile.GID, configFile.Mode = file("/c")
	made, err := cli.ServiceCreate(ctx, swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: "go", Labels: map[string]string{"go": "yes"}},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{
				Image:           image,
				Command:         []string{"sh", "-c", "echo from go; sleep 600"},
				StopGracePeriod: &grace,
				Secrets:         []*swarm.SecretReference{{File: secretFile, SecretID: secretID, SecretName: "go-data"}},
				Configs:         []*swarm.ConfigReference{{File: configFile, ConfigID: configID, ConfigName: "go-data"}},
			},
			Networks:  []swarm.NetworkAttachmentConfig{{Target: network, Aliases: []string{"gopher"}}},
			Resources: &swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: 64 << 20, Pids: 50}},
		},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &two}},
		UpdateConfig: &swarm.UpdateConfig{Parallelism: 2, Order: swarm.UpdateOrderStartFirst},
		EndpointSpec: &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8090}}},
	}, types.ServiceCreateOptions{QueryRegistry: true})
	must(err)
	running(ctx, cli, 2)
	listed, err := cli.ServiceList(ctx, types.ServiceListOptions{
		Filters: filters.NewArgs(filters.Arg("name", "go"), filters.Arg("mode", "replicated")),
		Status:  true,
	})
	must(err)
	shown, raw, err := cli.ServiceInspectWithRaw(ctx, "go", types.ServiceInspectOptions{InsertDefaults: true})
	must(err)
	seen["service"] = len(listed) == 1 && listed[0].ServiceStatus.RunningTasks == 2 && shown.ID == made.ID &&
		len(raw) > 0 && len(shown.Endpoint.VirtualIPs) == 2 && len(shown.Endpoint.Ports) == 1
	return made.ID
}

func running(ctx context.Context, cli *client.Client, wanted int) {
	until(fmt.Sprintf("%d tasks run", wanted), func() bool {
		tasks, err := cli.TaskList(ctx, types.TaskListOptions{
			Filters: filters.NewArgs(filters.Arg("service", "go"), filters.Arg("desired-state", "running")),
		})
		must(err)
		count := 0
		for _, task := range tasks {
			if task.Status.State == swarm.TaskStateRunning && task.Status.ContainerStatus.ContainerID != "" {
				count++
			}
		}
		return count == wanted && len(tasks) == wanted
	})
}

// scale reads, changes and writes, as every tool does; a version that is old is refused.
func scale(ctx context.Context, cli *client.Client, id string) bool {
	service, _, err := cli.ServiceInspectWithRaw(ctx, id, types.ServiceInspectOptions{})
	must(err)
	three := uint64(3)
	service.Spec.Mode.Replicated.Replicas = &three
	service.Spec.TaskTemplate.ForceUpdate++
	_, err = cli.ServiceUpdate(ctx, id, service.Version, service.Spec, types.ServiceUpdateOptions{})
	must(err)
	_, err = cli.ServiceUpdate(ctx, id, service.Version, service.Spec, types.ServiceUpdateOptions{})
	seen["stale"] = err != nil && strings.Contains(err.Error(), "update out of sequence")
	running(ctx, cli, 3)
	until("the update is complete", func() bool {
		after, _, err := cli.ServiceInspectWithRaw(ctx, id, types.ServiceInspectOptions{})
		must(err)
		return after.UpdateStatus != nil && after.UpdateStatus.State == swarm.UpdateStateCompleted
	})
	tasks, err := cli.TaskList(ctx, types.TaskListOptions{Filters: filters.NewArgs(filters.Arg("service", id))})
	must(err)
	task, _, err := cli.TaskInspectWithRaw(ctx, tasks[0].ID)
	must(err)
	return task.ServiceID == id && task.Slot > 0
}

func readLogs(ctx context.Context, cli *client.Client, id string) bool {
	stream, err := cli.ServiceLogs(ctx, id, types.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: "all"})
	must(err)
	defer stream.Close()
	var stdout, stderr bytes.Buffer
	_, err = stdcopy.StdCopy(&stdout, &stderr, stream)
	must(err)
	return strings.Count(stdout.String(), "from go") >= 3 && stderr.Len() == 0
}

func labelNode(ctx context.Context, cli *client.Client, id string) bool {
	nodes, err := cli.NodeList(ctx, types.NodeListOptions{Filters: filters.NewArgs(filters.Arg("role", "manager"))})
	must(err)
	node, _, err := cli.NodeInspectWithRaw(ctx, id)
	must(err)
	if node.Spec.Labels == nil {
		node.Spec.Labels = map[string]string{}
	}
	node.Spec.Labels["go"] = "yes"
	must(cli.NodeUpdate(ctx, id, node.Version, node.Spec))
	after, _, err := cli.NodeInspectWithRaw(ctx, id)
	must(err)
	return len(nodes) == 1 && nodes[0].ManagerStatus.Leader && after.Spec.Labels["go"] == "yes"
}

// refusals are of the kinds that tools tell apart.
func refusals(ctx context.Context, cli *client.Client, secretID string) {
	_, _, err := cli.ServiceInspectWithRaw(ctx, "nosuch", types.ServiceInspectOptions{})
	seen["not found"] = client.IsErrNotFound(err)
	_, err = cli.SecretCreate(ctx, swarm.SecretSpec{Annotations: swarm.Annotations{Name: "go-data"}, Data: []byte("x")})
	seen["conflict"] = err != nil && strings.Contains(err.Error(), "already exists")
	err = cli.SecretRemove(ctx, secretID)
	seen["in use"] = err != nil && strings.Contains(err.Error(), "is in use by the following service: go")
	_, err = cli.ServiceCreate(ctx, swarm.ServiceSpec{}, types.ServiceCreateOptions{})
	seen["invalid"] = err != nil
}
