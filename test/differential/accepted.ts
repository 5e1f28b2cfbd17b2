/**
 * Every difference between stock swarm (20.10) and shoal that is meant, with its reason. A difference
 * is accepted where all patterns of an entry match; both sides' texts are named, so that neither can
 * change unnoticed. An entry that a whole run does not use is reported: it is no longer true.
 */
import type { Difference } from "./compare.ts";

export type AcceptedDifference = {
  reason: string;
  /** Of the case's name. @default any */
  name?: RegExp;
  /** Of the place (compare.ts). @default any */
  where?: RegExp;
  stock: RegExp;
  shoal: RegExp;
};

export const ACCEPTED: readonly AcceptedDifference[] = [
  // ---- codes and texts in general -------------------------------------------------------------
  {
    reason: "What the user did wrong is a 4xx; stock answers some of it with 500",
    where: /^result$/,
    stock: /^500 /,
    shoal: /^40[034] /,
  },
  {
    reason:
      "The text for a body that is no JSON, or has a wrong type somewhere, is ours: it names the field and what is wanted, not Go's types",
    where: /^body\.message$/,
    stock:
      /^"(got EOF while|unexpected EOF|json: cannot unmarshal|invalid character|EOF|illegal base64)/,
    shoal: /^"invalid (JSON|value for|request|filter: )/,
  },
  {
    reason:
      "An update that was given up says by which error; stock names the task, which may be forgotten soon",
    where: /^std(out|err)$/,
    stock: /failure or early termination of task \S+$/,
    shoal: /failure or early termination of task \S+: task: non-zero exit \(1\)$/,
  },
  {
    reason: "The words for an unknown filter are those of newer engines",
    where: /^(stderr|body\.message)$/,
    stock: /Invalid filter '/,
    shoal: /invalid filter '/,
  },
  {
    reason:
      "Every answer has the API's headers, also those that stock gives before it sets them: unknown paths, refused versions",
    where: /^header (api-version|ostype|docker-experimental|server)$/,
    stock: /^\(absent\)$/,
    shoal: /^(1\.\d+|linux|false|true|Docker\/\S+ \(linux\))$/,
  },
  {
    reason: "A bad constraint is the user's mistake in the CLI's words, too",
    where: /^stderr$/,
    stock: /code = Unknown desc = constraint expected/,
    shoal: /code = InvalidArgument desc = constraint expected/,
  },
  {
    reason: "A body with something behind its JSON is refused",
    name: /^service\/body: two values$/,
    stock: /^"mismatched Runtime/,
    shoal: /^"invalid JSON: /,
  },
  // ---- versions and paths ---------------------------------------------------------------------
  {
    reason: "The least API version is 1.24, as of the newest engines",
    where: /MinAPIVersion$/,
    stock: /^"1\.12"$/,
    shoal: /^"1\.24"$/,
  },
  {
    reason: "The least API version is 1.24, in the words of docker version",
    name: /version of the server$/,
    stock: / 1\.12$/,
    shoal: / 1\.24$/,
  },
  {
    reason: "Versions before 1.24 are refused, as by the newest engines",
    name: /^api\/version: older than ours$/,
    where: /^result$/,
    stock: /^200 /,
    shoal: /^400 client version 1\.(12|23) is too old\. Minimum supported API version is 1\.24/,
  },
  {
    reason: "A refused old version is told in JSON as every error, and with our least version",
    name: /^api\/version: (too old|no number)$/,
    where: /^(body|header content-type)$/,
    stock: /^(text\/plain; charset=utf-8|client version 1(\.11)? is too old.*)$/,
    shoal: /^(application\/json|\{"message":"client version 1(\.11)? is too old.*)$/,
  },
  {
    reason: "HEAD is answered as GET without its body, as HTTP has it",
    name: /^api\/paths: HEAD/,
    stock: /^404$/,
    shoal: /^200$/,
  },
  {
    reason:
      "Paths are not cleaned by a redirect: no client sends two slashes, and a POST would lose its body",
    name: /^api\/paths: double slash$/,
    stock: /^301/,
    shoal: /^404 page not found$/,
  },
  {
    reason: "A name is taken as it is, also with a slash or a wrong escape in it",
    name: /^api\/paths: (percent in a name|name with a slash in it)$/,
    stock: /^400 400 Bad Request$|^"page not found"$/,
    shoal: /^404 service %zz not found$|^"service a\/b not found"$/,
  },
  // ---- swarm ----------------------------------------------------------------------------------
  {
    reason: "An address that is none is told with the interfaces that there are",
    name: /^inactive\/init: /,
    where: /^(body\.message|stderr)$/,
    stock: /must be an? (non-zero )?IP address or network interface/,
    shoal: /neither an IPv4 address nor an interface of this host/,
  },
  {
    reason: "Pools that overlap are refused; stock takes them and may give one address twice",
    name: /overlapping pools/,
    stock: /^200 /,
    shoal: /^400 Cannot use pool 10\.99\.1\.0\/24: it overlaps/,
  },
  {
    reason: "Join tokens are told what is wrong with them, before anything else",
    name: /^inactive\/join: /,
    where: /^(stderr|body\.message)$/,
    stock: /invalid join token|invalid ListenAddr|connection refused/,
    shoal: /invalid join token: /,
  },
  {
    reason: "A node in no swarm says so when it is to be unlocked",
    name: /^inactive\/api: unlock$/,
    where: /^body\.message$/,
    stock: /This node is not a swarm manager/,
    shoal: /^"This node is not part of a swarm"$/,
  },
  {
    reason: "A node in no swarm answers 503 for an overlay network, as newer engines do",
    name: /^inactive\/api: overlay network$/,
    stock: /^500 This node is not a swarm manager/,
    shoal: /^503 This node is not a swarm manager/,
  },
  {
    reason: "DefaultAddrPool is shown also when it is the default one: people look for it",
    where: /DefaultAddrPool$/,
    stock: /^null$/,
    shoal: /^\["<ip>"\]$/,
  },
  {
    reason: "docker info shows the address pool also when it is the default one",
    name: /^swarm\/cli: info in words$/,
    stock: /^ Swarm: active(?![\s\S]*Default Address Pool)/,
    shoal: /Default Address Pool: <ip>\n +SubnetSize: 24/,
  },
  {
    reason: "A node is believed dead after seconds, so the heartbeat is 1 s by default and not 5 s",
    where: /HeartbeatPeriod$/,
    stock: /^5000000000$/,
    shoal: /^1000000000$/,
  },
  {
    reason:
      "Parts that a swarm update leaves out stay as they are; stock sets them to zero, raft's ticks among them",
    name: /^swarm\/api: update (without|heartbeat 0|expiry 0)/,
    where: /Spec\.(Dispatcher|Raft|CAConfig)\./,
    stock: /^(\(absent\)|0)$/,
    shoal: /^\d+$/,
  },
  {
    reason: "Raft ticks are fixed: stock stores what its raft cannot run with",
    name: /^swarm\/api: update (election|heartbeat) tick$/,
    where: /^result$/,
    stock: /^200/,
    shoal: /^400 .*the raft ticks cannot be changed/,
  },
  {
    reason: "Raft ticks are fixed: they stay as they were",
    name: /^swarm\/api: update (election|heartbeat) tick$/,
    where: /Spec\.Raft\.(Election|Heartbeat)Tick$/,
    stock: /^(5|20)$/,
    shoal: /^(10|1)$/,
  },
  {
    reason: "TaskDefaults are kept and used; stock's converter drops them",
    where: /Spec\.TaskDefaults\.LogDriver$/,
    stock: /^\(absent\)$/,
    shoal: /^\{"Name":"json-file"\}$/,
  },
  {
    reason: "A signing certificate that is none is told as such",
    name: /^swarm\/ca: signing certificate that is none$/,
    where: /^body\.message$/,
    stock: /if a signing CA key is provided, the signing CA cert must also be provided/,
    shoal: /no certificate in it/,
  },
  // ---- nodes ----------------------------------------------------------------------------------
  {
    reason:
      "A node that was updated stays a member; stock's filter takes it for pending from then on",
    name: /^node\/ls: filter membership/,
    where: /^stdout$/,
    stock: /^ID {2}HOSTNAME/,
    shoal: /^ID {2}HOSTNAME/,
  },
  {
    reason: "A node is also found by the name in its spec; stock forgets that name",
    name: /^node\/api: update name is found$/,
    stock: /^(404 node alias not found|\[\])$/,
    shoal: /"alias"/,
  },
  {
    reason: "A worker refuses an overlay network with the words for all that only managers do",
    name: /^worker\/cli: overlay network$/,
    stock: /from a worker node/,
    shoal: /This node is not a swarm manager/,
  },
  {
    reason: "To demote a node that is a worker changes nothing, whether it is up or down",
    name: /^leave: the worker is down then$/,
    stock: /^1 .*can't find manager in raft memberlist$/,
    shoal: /^0 Manager h2 demoted in the swarm\.$/,
  },
  // ---- events ---------------------------------------------------------------------------------
  {
    reason: "A network is complete when it is created; stock writes it twice and tells of both",
    name: /^api\/events: network$/,
    where: /^body\[\]$/,
    stock: /^\[\{"Action":"update",[^[\]]*"Type":"network"[^[\]]*\}\]$/,
    shoal: /^\[\]$/,
  },
  {
    reason: "A filter by a config's name shows configs; stock shows all that have the name",
    name: /^api\/events: secret and config$/,
    where: /^body\[\]$/,
    stock: /^\[(\{"Action":"\w+",[^[\]]*"Type":"secret"[^[\]]*\},?)+\]$/,
    shoal: /^\[\]$/,
  },
  {
    reason: "What the allocator adds to a service is no news",
    name: /^events\/rare: a stack$/,
    where: /^body\[\]$/,
    stock: /^\[\{"Action":"update","Actor":\{"Attributes":\{"name":"evs_web"\}/,
    shoal: /^\[\]$/,
  },
  // ---- services -------------------------------------------------------------------------------
  {
    reason:
      "Mistakes are refused at the call which stock takes, and then ignores or lets the tasks fail of (mounts, ports, negative times, unknown words)",
    name: /^service(\/| create)/,
    where: /^result$/,
    stock: /^(201 \{"ID":"<id>"\}|0 <id>)$/,
    shoal:
      /(Jobs may not have a rollback config|cannot be negative|npipe mounts are for Windows|mount target must be provided|its source must be provided|it cannot have a source|invalid (port protocol|publish mode)|PublishedPort: Too big|a target port must be provided|network "\w+" is listed twice|maxfailureratio cannot be|Preferences\.0\.Spread)/,
  },
  {
    reason:
      "Update and rollback settings are not shown of a job: sent back, they would be refused, also by stock",
    where: /(\.Spec|^stdout)\.(Update|Rollback)Config$/,
    stock: /^\{"FailureAction":"pause","MaxFailureRatio":0,"Monitor":5000000000,/,
    shoal: /^\(absent\)$/,
  },
  {
    reason: "Named generic resources belong to nodes; a service asks for a number",
    name: /^service\/resources: generic, named$/,
    stock: /^201 /,
    shoal: /^400 .*resource/,
  },
  {
    reason: "An empty generic resource makes stock's handler crash",
    name: /^service\/resources: generic, empty$/,
    stock: /^ECONNRESET/,
    shoal: /^400 .*generic resources must be given as/,
  },
  {
    reason: "The words for a config that a credential spec names and nobody has are ours",
    name: /credential spec of a config that is none/,
    stock: /isn't in config references with RuntimeTarget/,
    shoal: /config not found: nosuch/,
  },
  {
    reason: "The words for a template that is wrong are ours: they name what can be used",
    name: /template/,
    where: /^(body\.message|stderr)$/,
    stock: /desc = expanding (env|hostname|mounts) failed: /,
    shoal: /desc = expanding (env|hostname|mount source) failed: Cannot expand template /,
  },
  {
    reason: "Attachments by hand are not there (501)",
    name: /^service\/container: runtime attachment$/,
    stock: /^400 unsupported runtime$/,
    shoal: /^501 .*are not supported yet/,
  },
  {
    reason: "Plugin services need no experimental engine",
    name: /^service\/container: plugin on every node$/,
    where: /^result$/,
    stock: /^500 runtime type "plugin" only supported in experimental$/,
    shoal: /^201 \{"ID":"<id>"/,
  },
  {
    reason: "An unknown runtime is named",
    name: /^service\/container: runtime unknown$/,
    stock: /"unsupported runtime"/,
    shoal: /runtime \\"nosuch\\" is unknown/,
  },
  {
    reason: "Consistency of a mount is kept; stock drops it",
    where: /Mounts\[\]\.Consistency$/,
    stock: /^\(absent\)$/,
    shoal: /^"cached"$/,
  },
  {
    reason: "A network without a name is none; stock takes the empty text for a prefix of all ids",
    name: /^service\/references: network empty$/,
    stock: /^400 network {2}is ambiguous/,
    shoal: /^404 network {2}not found$/,
  },
  {
    reason: "Network none works for services",
    name: /^service\/references: network none$|--network none$/,
    stock: /^(404 |1 Error response from daemon: network none not found)/,
    shoal: /^(20[01] |0 <svc>)/,
  },
  {
    reason: "Networks in the place of API 1.24 are shown in today's, as newer engines store them",
    name: /^service\/references: networks in the old place$/,
    where: /^body\.Spec\.(TaskTemplate\.)?Networks$/,
    stock: /^(\(absent\)|\[\{"Target":"<net>"\}\])$/,
    shoal: /^(\(absent\)|\[\{"Target":"<net>"\}\])$/,
  },
  {
    reason: "The body of a rollback is not looked at; stock wants a good one and ignores it",
    name: /^service\/update-api: rollback=previous$/,
    stock: /^(400 mismatched Runtime|\(absent\)$|"b"$)/,
    shoal: /^(200 |\(absent\)$|"b"$|\{"Message":"manually requested rollback")/,
  },
  {
    reason: "A mount of an image is there where the engine has it; stock refuses it at any version",
    name: /--mount type=image$/,
    stock: /invalid MountType: "image"/,
    shoal: /^0 <id>$/,
  },
  {
    reason: "Cluster volumes (CSI) are known, and told to be missing",
    name: /--mount type=cluster$/,
    stock: /invalid MountType: "cluster"/,
    shoal: /cluster volumes \(CSI\) are not supported yet/,
  },
  {
    reason: "A rollback's failure ratio is looked at, too, and before the name is",
    name: /--rollback-max-failure-ratio, bad$/,
    where: /^stderr$/,
    stock: /service s1 already exists/,
    shoal: /maxfailureratio cannot be less than 0 or bigger than 1/,
  },
  {
    reason: "Labels of services by their name work in templates; stock checks them without any",
    name: /templates everywhere$/,
    stock: /<.Service.Labels.x>: map has no entry|^1 \[\] Error: no such service: s1/,
    shoal: /^0 /,
  },
  {
    reason:
      "Logs have their type also while there are none; stock sends its head with the first line",
    name: /logs, flags$/,
    where: /^header content-type$/,
    stock: /^\(absent\)$/,
    shoal: /^application\/vnd\.docker\.raw-stream$/,
  },
  // ---- tasks ----------------------------------------------------------------------------------
  {
    reason: "Containers carry two labels by which the agent knows its own",
    where: /^stdout(\[\])?\.(Labels\.)?shoal\.(cluster|task)\.id$/,
    stock: /^\(absent\)$/,
    shoal: /^"<(id|task)>"$/,
  },
  {
    reason: "A missing image is told with the reason why it could not be pulled",
    name: /an image that is none/,
    stock: /No such image: nosuch:latest"$/,
    shoal: /No such image: nosuch:latest \(pull: /,
  },
  {
    reason: "What the registry said is told with a task whose image is not there",
    name: /^registry: (without credentials|a (tag|name|registry) that is none)$/,
    where: /^stdout$/,
    stock: /^Rejected <ago> "No such image: [^ ]+"$/,
    shoal: /^Rejected <ago> "No such image: [^ ]+ \(pull: .*(no basic auth|unknown|refused)/,
  },
  // ---- several managers -----------------------------------------------------------------------
  {
    reason:
      "A manager that leaves is taken out of raft first: one of two goes on, and nothing becomes inaccessible",
    name: /^managers: a manager does not leave unasked$/,
    stock: /leaves 1 managers out of 2\. Without a Raft quorum/,
    shoal: /participating as a manager\. The only way to restore/,
  },
  // ---- containers of tasks, and beside them ---------------------------------------------------
  {
    reason: "Containers are made through the engine's API, which fills in what stock leaves empty",
    name: /^(beside\/container: inspect|inside: every option)/,
    where: /^stdout\.(RestartPolicy\.Name|Ulimits|PortBindings)$/,
    stock: /^(""|\[\]|\{\})$/,
    shoal: /^("no"|null)$/,
  },
  {
    reason: "Secrets and configs come by mounts, which the engine shows",
    name: /^inside: (secrets and configs|templates)$/,
    where: /^stdout$/,
    stock: /^(0|volume v-1 \/d-s1 local true;)$/,
    shoal: /^(5|volume v-1 \/d-s1 local true;bind {2}\/in-t {2}false;)$/,
  },
  {
    reason: "A container knows its grace period: docker stop keeps to it, too",
    where: /\.StopTimeout$/,
    stock: /^\(absent\)$/,
    shoal: /^1$/,
  },
  {
    reason: "On an overlay network the mesh of the node answers names, at the network's gateway",
    name: /^beside\/container: inspect/,
    where: /^stdout\.(Dns|NetworkMode)$/,
    stock: /^(null|"default")$/,
    shoal: /^(\["<ip>"\]|"na3")$/,
  },
  {
    reason: "Published ports need no leg on ingress",
    name: /^beside\/container: inspect, with/,
    where: /^stdout$/,
    stock: /\bingress\b/,
    shoal: /^(?!.*ingress).*\bna3\b/,
  },
  {
    reason: "The address on an overlay network is there as soon as the container is",
    name: /^beside\/network: create, then start$/,
    stock: /^na17 null$/,
    shoal: /^na17 \{"IPv4Address":"<ip>"\}$/,
  },
  {
    reason: "A container of the user's is named where it holds a network",
    name: /^(beside\/network: a container on|networks\/rare: in use by a container)/,
    where: /^stderr$/,
    stock: /is in use by (service|task) <\w+>/,
    shoal: /is in use by container r?c\d of node <node>/,
  },
  {
    reason: "Networks have no endpoints of a load balancer",
    name: /^beside\/network: inspect with a task on it$/,
    where: /^stdout$/,
    stock: /^(?=.*s1\.1\.<id>).*na20-endpoint/,
    shoal: /^s1\.1\.<id>$/,
  },
  {
    reason: "There is no docker_gwbridge: the node's own bridge is the way out",
    name: /^beside\/network: ls of local ones$/,
    stock: /docker_gwbridge/,
    shoal: /^(?![\s\S]*docker_gwbridge[^ ]*$)/,
  },
  {
    reason:
      "A network that a service uses is not dangling; stock looks at the node's containers only",
    name: /^beside\/network: ls of what a service uses$/,
    stock: /^(na22)?$/,
    shoal: /^(na22)?$/,
  },
  {
    reason: "What the user did wrong is a 4xx, to clients too (logs of no stream)",
    name: /^client: docker-py$/,
    where: /^stdout\[\]\.value\[\]$/,
    stock: /^500$/,
    shoal: /^400$/,
  },
  // ---- secrets and configs --------------------------------------------------------------------
  {
    reason: "An unknown template driver is refused at once; stock lets the task fail",
    name: /unknown template driver/,
    stock: /^0 <id>$/,
    shoal: /template driver "nosuch" is unknown: use golang/,
  },
  {
    reason: "A template driver without a name is none",
    name: /create with no templating/,
    where: /Templating$/,
    stock: /^\{\}$/,
    shoal: /^\(absent\)$/,
  },
  {
    reason: "Data is base64 text, not a list of numbers",
    name: /create with data as list/,
    stock: /^201 /,
    shoal: /^400 invalid value for Data/,
  },
  {
    reason: "Configs have the filter names as secrets do",
    name: /^config\/api: filters$/,
    where: /^result$/,
    stock: /^400 Invalid filter 'names'$/,
    shoal: /^200 /,
  },
  // ---- networks -------------------------------------------------------------------------------
  {
    reason: "A subnet that is none is told as a refusal of the control API",
    name: /create with a bad subnet/,
    stock: /Invalid subnet nonsense : invalid CIDR/,
    shoal: /invalid subnet nonsense : not an IPv4 CIDR/,
  },
  {
    reason:
      "A subnet that another network has is refused; stock takes it and never makes that network",
    name: /create with a taken subnet/,
    stock: /^0 <id>$|network with name n2 already exists/,
    shoal: /Pool overlaps with other one/,
  },
  {
    reason:
      "Not there, and said so: several subnets of a family, encryption that no node's kernel has, other drivers",
    name: /^network\//,
    where: /^result$/,
    stock: /^(0|201|200|400) /,
    shoal: /Unimplemented desc = |not supported|^404 network n1 not found/,
  },
  {
    reason:
      "Refused where no node's kernel has ESP, with the reason; stock makes the network, whose tasks then fail",
    name: /create encrypted/,
    where: /^result$/,
    stock: /^20[01] /,
    shoal: /^400 .*cannot create encrypted network|^404 network n1 not found/,
  },
  {
    reason: "An overlay network is not made from one node's configuration",
    name: /create with config from/,
    stock: /^201 /,
    shoal: /not made from a node's nosuch: give its subnet/,
  },
  {
    reason: "There are no IPAM plugins, so that options for them mean nothing",
    name: /^networks\/rare: create, long flags$/,
    where: /^(stdout|result)$/,
    stock: /^\{"a":"b",/,
    shoal: /^null$/,
  },
  {
    reason: "A configuration that a node lacks is told with what to do",
    name: /a service without the configuration/,
    stock: /^Rejected <ago> "configuration network "l5-none" does not exist"$/,
    shoal: /"configuration network "l5-none" does not exist on this node: create it here with/,
  },
  {
    reason:
      "An address that the user gives on a network of a local driver is used; stock forgets it",
    name: /^network\/local: a container on it$/,
    stock: /^1\s*$/,
    shoal: /^0 10\.99\.45\.77\/24$/,
  },
  {
    reason: "A configuration in use is told with its user",
    name: /^network\/local: a service on it$/,
    stock: /configuration network "l3-cfg" is in use\n/,
    shoal: /configuration network "l3-cfg" is in use by network l3\n/,
  },
  {
    reason:
      "A subnet that every node's engine would give out is refused; stock takes it, forgets the parent, and rejects the tasks",
    name: /with a subnet and no configuration/,
    stock: /^0 <id>$/,
    shoal: /each node's engine would give out the same addresses of 10\.99\.46\.0\/24/,
  },
  {
    reason: "A subnet of fewer than eight addresses is refused: no service fits in",
    name: /subnet of one address/,
    stock: /^201 /,
    shoal: /choose one from 8 to 29/,
  },
  {
    reason: "A subnet is shown as what it is, without bits of a host",
    name: /host bits in the subnet/,
    stock: /10\.99\.1\.7\/24/,
    shoal: /10\.99\.1\.0\/24/,
  },
  {
    reason: "An IPAM configuration that says nothing is none",
    name: /create with an empty config/,
    stock: /^404 /,
    shoal: /^200 /,
  },
  {
    reason: "An IPAM configuration that says nothing is none, at the creation",
    name: /create with an empty config/,
    stock: /^500 Invalid subnet/,
    shoal: /^201 /,
  },
  {
    reason:
      "A name filter matches parts of all networks' names; stock compares the swarm's with the whole",
    name: /^network\/cli: ls$/,
    where: /^stdout$/,
    stock: /^(ingress overlay swarm\nnone null local)?$/,
    shoal: /n2 overlay swarm/,
  },
  {
    reason: "A network that is not attachable is told with what to do",
    name: /on an overlay that is not attachable|container on one that is not attachable|run on ingress/,
    stock: /PermissionDenied desc = network \w+ not manually attachable/,
    shoal: /network \w+ not manually attachable: create it with --attachable/,
  },
];

export function findAccepted(
  caseName: string,
  difference: Difference,
): AcceptedDifference | undefined {
  return ACCEPTED.find(
    (entry) =>
      (entry.name?.test(caseName) ?? true) &&
      (entry.where?.test(difference.where) ?? true) &&
      entry.stock.test(difference.stock) &&
      entry.shoal.test(difference.shoal),
  );
}
