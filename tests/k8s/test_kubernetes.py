"""k8s/: every overlay with every component is valid for the Kubernetes API, and consistent."""

import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from command import ROOT
from kubernetes_validate.utils import all_versions, major_minor
from manifests import (
    IMAGE,
    KUBECTL,
    OVERLAYS,
    SOURCES,
    STORE,
    canonical,
    copy_of_the_repository,
    needs_kubectl,
    render,
    templates,
)

from disttrain.config import TrainConfig
from disttrain.errors import DataError, HungError, NonFiniteError, PeerError, Stopped, StorageError, UsageError
from disttrain.synthetic.command import MakeDataConfig

pytestmark = needs_kubectl
MINORS = list(dict.fromkeys(map(major_minor, all_versions())))[-3:]
K8S = ROOT / "k8s"

# Of kubeflow/mpi-operator, pkg/apis/kubeflow/v2beta1/types.go and pkg/apis/kubeflow/validation/validation.go at v0.8.
MPIJOB = {
    "slotsPerWorker",
    "runLauncherAsWorker",
    "runPolicy",
    "mpiReplicaSpecs",
    "sshAuthMountPath",
    "launcherCreationPolicy",
    "mpiImplementation",
}
RUN_POLICY = {
    "cleanPodPolicy",
    "ttlSecondsAfterFinished",
    "activeDeadlineSeconds",
    "backoffLimit",
    "schedulingPolicy",
    "suspend",
    "managedBy",
}
REPLICAS = {"replicas", "template", "restartPolicy"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return copy_of_the_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def variants(copy):
    """Every overlay with and without GPUs, from each source of data; TensorBoard where there is a volume for it."""
    found = []
    for overlay in OVERLAYS:
        for source in SOURCES:
            for device in ((), ("gpu",)):
                board = ("tensorboard",) if source == "pvc" else ()
                pods = {} if overlay == "single-node" else {"pods": "3"}
                parts = (*device, *([source] if source else []), *board)
                found.append(render(copy, overlay, *parts, gpus="8", arguments=["--epochs", "3"], **pods))
    return found


def plain(directory):
    """What `kubectl kustomize` makes of a directory of k8s/."""
    text = subprocess.run([KUBECTL, "kustomize", K8S / directory], check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


# -- the API's own rules


@pytest.fixture(scope="module")
def known_objects(variants):
    """All objects of all variants, each once, and those that are applied separately."""
    objects = [thing for variant in variants for thing in variant.objects]
    for directory in ("data", "fetch", *(f"overlays/{overlay}" for overlay in OVERLAYS)):
        objects += plain(directory)
    for thing in [thing for thing in objects if thing["kind"] == "MPIJob"]:
        objects.remove(thing)
        for role, template in templates(thing):
            name = f"{thing['metadata']['name']}-{role}"
            objects.append(
                {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
            )
    return list({canonical(thing): thing for thing in objects}.values())


@pytest.mark.slow
@pytest.mark.parametrize("minor", MINORS)
def test_every_object_is_of_its_schema(known_objects, minor):
    assert {"Job", "Service", "PodTemplate", "Deployment", "Pod"} <= {thing["kind"] for thing in known_objects}
    for thing in known_objects:
        kubernetes_validate.validate(thing, minor, strict=True)


@pytest.mark.slow
def test_a_misspelt_field_would_be_found(variants):
    job = variants[0].job
    faulty = job | {"spec": job["spec"] | {"backofLimit": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(faulty, MINORS[-1], strict=True)


def test_an_mpijob_has_the_operators_fields(variants):
    jobs = [variant for variant in variants if variant.job["kind"] == "MPIJob"]
    assert jobs
    for variant in jobs:
        job, spec = variant.job, variant.job["spec"]
        assert (job["apiVersion"], set(job)) == ("kubeflow.org/v2beta1", {"apiVersion", "kind", "metadata", "spec"})
        assert set(spec) <= MPIJOB
        assert set(spec["runPolicy"]) <= RUN_POLICY
        assert spec["runPolicy"]["cleanPodPolicy"] in ("None", "Running", "All")
        assert spec["launcherCreationPolicy"] in ("AtStartup", "WaitForWorkersReady")
        assert set(spec["mpiReplicaSpecs"]) == {"Launcher", "Worker"}
        assert spec["mpiReplicaSpecs"]["Launcher"]["replicas"] == 1
        for replicas in spec["mpiReplicaSpecs"].values():
            assert set(replicas) <= REPLICAS
            assert replicas["restartPolicy"] in ("Never", "OnFailure")
            assert "restartPolicy" not in replicas["template"]["spec"]  # the operator warns of two


# -- what belongs together


def test_references_lead_to_objects_of_the_run_or_to_what_is_documented(variants):
    documented = {("PersistentVolumeClaim", "disttrain-data"), ("Secret", "disttrain-store")}
    for variant in variants:
        there = {(thing["kind"], thing["metadata"]["name"]) for thing in variant.objects}
        for _, pod in variant.pods().items():
            used = {("ServiceAccount", pod["spec"]["serviceAccountName"])}
            for volume in pod["spec"]["volumes"]:
                kinds = {"persistentVolumeClaim": "claimName", "configMap": "name", "secret": "secretName"}
                used |= {
                    (kind[0].upper() + kind[1:], volume[kind][key]) for kind, key in kinds.items() if kind in volume
                }
            for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
                used |= {("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", [])}
            assert used - there <= documented


def test_volumes_that_are_mounted_are_declared_and_the_other_way_round(variants):
    for variant in variants:
        for pod in variant.pods().values():
            containers = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
            mounted = [mount for container in containers for mount in container["volumeMounts"]]
            assert {mount["name"] for mount in mounted} == {volume["name"] for volume in pod["spec"]["volumes"]}
            for container in containers:
                paths = [mount["mountPath"] for mount in container["volumeMounts"]]
                assert len(set(paths)) == len(paths)


def test_selectors_select_pods_and_ports_agree(variants):
    seen = set()
    for variant in variants:
        pods = variant.pods()
        for service in variant.of_kind("Service"):
            chosen = {role for role, pod in pods.items() if selects(service["spec"]["selector"], pod)}
            assert len(chosen) == 1
            [role] = chosen
            open_ports = {port["name"]: port["containerPort"] for port in pods[role]["spec"]["containers"][0]["ports"]}
            for port in service["spec"]["ports"]:
                assert open_ports[port["targetPort"]] == port["port"]
            seen.add(role)
        for budget in variant.of_kind("PodDisruptionBudget"):
            chosen = {role for role, pod in pods.items() if selects(budget["spec"]["selector"]["matchLabels"], pod)}
            assert chosen == {"worker"}
            assert isinstance(budget["spec"]["minAvailable"], int)  # all that is possible for pods without a scale
            seen.add("budget")
        for role, pod, container in variant.containers():
            probes = [container[name] for name in ("readinessProbe", "livenessProbe") if name in container]
            names = {port["name"] for port in container.get("ports", [])}
            asked = [probe.get("tcpSocket") or probe["httpGet"] for probe in probes if "exec" not in probe]
            assert {probe["port"] for probe in asked} <= names, role
            for constraint in pod["spec"].get("topologySpreadConstraints", []):
                assert selects(constraint["labelSelector"]["matchLabels"], pod)
                assert set(constraint["matchLabelKeys"]) <= set(pod["metadata"]["labels"])
    assert seen == {"worker", "tensorboard", "budget"}


def selects(labels, pod):
    return labels.items() <= pod["metadata"]["labels"].items()


def test_the_indexed_jobs_pods_have_names_in_the_service(variants):
    for variant in variants:
        if variant.overlay == "indexed":
            service, job = variant.only("Service", "disttrain-1"), variant.job
            assert service["spec"]["clusterIP"] == "None"
            assert (
                service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == job["metadata"]["name"]
            )
            [container] = job["spec"]["template"]["spec"]["containers"]
            assert {"name": "PORT", "value": str(container["ports"][0]["containerPort"])} in container["env"]
            assert job["spec"]["completionMode"] == "Indexed"


def test_sshd_listens_where_the_launcher_looks(variants):
    for variant in variants:
        if variant.job["kind"] == "MPIJob":
            [port] = variant.pods()["worker"]["spec"]["containers"][0]["ports"]
            assert (port["name"], str(port["containerPort"])) == ("ssh", variant.settings["DISTTRAIN_SSH_PORT"])
            assert variant.job["spec"]["sshAuthMountPath"] == "/home/disttrain/.ssh"


# -- one place for names, images and sizes


def test_every_image_is_from_one_place(variants):
    for variant in variants:
        for role, _, container in variant.containers():
            expected = "tensorflow/tensorflow:2.20.0" if role == "tensorboard" else IMAGE
            assert container["image"] == expected
    named = {
        re.search(r"\bimage: (\S+)", line)[1] for path in K8S.rglob("*.yaml") for line in lines_with(path, "image:")
    }
    assert named == {"disttrain", "tensorboard"}  # names for kustomize to replace, no registry's


def lines_with(path, text):
    return [line for line in path.read_text().splitlines() if text in line and "newName" not in line]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_runs_of_other_names_share_nothing(copy, overlay):
    parts = ["gpu", "pvc", "tensorboard"]
    first, second = (render(copy, overlay, *parts, run=run, namespace="team") for run in ("1", "b-2"))
    names = [{(thing["kind"], thing["metadata"]["name"]) for thing in run.objects} for run in (first, second)]
    assert not names[0] & names[1]
    assert all(thing["metadata"]["namespace"] == "team" for thing in second.objects)
    text = canonical(second.objects).replace('"containerName": "disttrain"', "")
    assert set(re.findall(r'"([^" ]+)": "disttrain"', text)) <= {"app.kubernetes.io/name", "name"}  # containers' names
    assert not re.findall(r'"disttrain-(?!data|[a-z]+-b-2|b-2)[^"]*"', text)


def test_sizes_reach_all_places(variants):
    for variant in variants:
        worker = variant.pods()["worker"]["spec"]["containers"][0]
        gpus = worker["resources"]["limits"].get("nvidia.com/gpu")
        assert gpus == (8 if "gpu" in variant.components else None)
        spec, pods = variant.job["spec"], 1 if variant.overlay == "single-node" else 3
        if variant.job["kind"] == "MPIJob":
            assert spec["slotsPerWorker"] == (gpus or 1)
            assert spec["mpiReplicaSpecs"]["Worker"]["replicas"] == pods
        else:
            assert spec["completions"] == spec["parallelism"] == pods
        assert variant.settings["WORKERS"] == str(pods)
        if variant.overlay == "elastic":
            assert int(variant.settings["DISTTRAIN_NP"]) == pods * (gpus or 1)


# -- what is done when a pod fails


def action(policy, container, code, *conditions):
    """Returns what the Job controller does by the first rule that matches; Count is its default."""
    for rule in policy["rules"]:
        exits = rule.get("onExitCodes")
        if exits and exits.get("containerName", container) == container:
            assert exits["operator"] == "In"
            if code in exits["values"]:
                return rule["action"]
        wanted = {(pattern["type"], pattern["status"]) for pattern in rule.get("onPodConditions", [])}
        if wanted & {(condition, "True") for condition in conditions}:
            return rule["action"]
    return "Count"


@pytest.mark.parametrize(
    ("code", "conditions", "expected"),
    [
        (UsageError.exit_code, [], "FailJob"),
        (DataError.exit_code, [], "FailJob"),
        (NonFiniteError.exit_code, [], "FailJob"),
        (StorageError.exit_code, [], "Count"),  # it may be back the next time
        (Stopped.exit_code, [], "Ignore"),
        (Stopped.exit_code, ["DisruptionTarget"], "Ignore"),
        (137, ["DisruptionTarget"], "Ignore"),  # preempted, or its node is gone
        (137, [], "Count"),  # too little memory
        (PeerError.exit_code, [], "Count"),
        (HungError.exit_code, [], "Count"),
        (1, [], "Count"),
    ],
)
def test_preemption_is_tried_again_and_bad_input_is_not(variants, code, conditions, expected):
    jobs = [variant.job for variant in variants if variant.job["kind"] == "Job"]
    for job in jobs:
        spec = job["spec"]
        names = {container["name"] for container in spec["template"]["spec"]["containers"]}
        assert action(spec["podFailurePolicy"], "disttrain", code, *conditions) == expected
        assert "disttrain" in names
        assert spec["template"]["spec"]["restartPolicy"] == "Never"  # else the API refuses the policy
        assert spec["podReplacementPolicy"] == "Failed"
    assert jobs


def test_where_several_pods_train_one_that_is_lost_does_not_fail_the_others(variants):
    for variant in variants:
        if variant.overlay == "indexed":
            spec, scripts = variant.job["spec"], variant.only("ConfigMap", "disttrain-scripts-1")["data"]
            assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (6, 0)
            assert "backoffLimit" not in spec  # it counts all pods together
            assert "container/again.sh python -m disttrain" in scripts["start.sh"]
        if variant.job["kind"] == "MPIJob":
            assert variant.pods()["launcher"]["spec"]["containers"][0]["command"][0].endswith("/container/again.sh")


# -- who may do what


def test_pods_run_with_the_least_rights(variants):
    pods = [pod for variant in variants for pod in variant.pods().values()]
    pods += [
        template for directory in ("data", "fetch") for thing in plain(directory) for _, template in templates(thing)
    ]
    for pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec.get("initContainers", []) + spec["containers"]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind])


def test_training_pods_can_write_where_they_must(variants):
    for variant in variants:
        worker = variant.pods()["worker"]["spec"]["containers"][0]
        writable = {mount["mountPath"] for mount in worker["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/tmp", "/cache", "/dev/shm", "/results"}
        for name in ("DISTTRAIN_OUTPUT", "DISTTRAIN_CACHE_DIR"):
            assert variant.settings[name].startswith("/results/")


def test_no_secret_stands_in_a_manifest(variants):
    for variant in variants:
        assert not variant.of_kind("Secret")
        settings = [thing["data"] for thing in variant.of_kind("ConfigMap")]
        settings += [{one["name"]: one.get("value")} for _, _, c in variant.containers() for one in c.get("env", [])]
        names = {name for one in settings for name, value in one.items() if value is not None}
        assert not [name for name in names if re.search(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY|CONNECTION_STRING", name)]


def test_the_network_is_open_to_the_run_and_where_it_needs_the_store_alone(variants):
    for variant in variants:
        [policy] = variant.of_kind("NetworkPolicy")
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        labels = policy["spec"]["podSelector"]["matchLabels"]
        assert all(selects(labels, pod) for pod in variant.pods().values())
        assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]
        outside = {port["port"] for rule in policy["spec"]["egress"] if "to" not in rule for port in rule["ports"]}
        assert outside == ({53, 443} if "object-store" in variant.components else {53})


def test_results_are_in_a_volume_that_all_pods_can_mount_or_in_the_store(variants):
    for variant in variants:
        claims = variant.of_kind("PersistentVolumeClaim")
        if "object-store" in variant.components:
            assert not claims
            assert variant.settings["RESULTS_URL"] == STORE
            assert variant.settings["DISTTRAIN_CHECKPOINT_DIR"] == f"{STORE}/checkpoints"
        else:
            mode = "ReadWriteOnce" if variant.overlay == "single-node" else "ReadWriteMany"
            assert [claim["spec"]["accessModes"] for claim in claims] == [[mode]]


# -- what is run


def test_options_are_those_of_disttrain(variants):
    fields = [*TrainConfig.model_fields, *MakeDataConfig.model_fields]
    options = {"--" + field.replace("_", "-") for field in fields}
    launching = "\n".join(path.read_text() for path in (ROOT / "launch").glob("*.sh"))
    launchers = set(re.findall(r"\[-[a-zA-Z-]+\]=(\w+)", launching)) | set(
        re.findall(r"DISTTRAIN_(\w+_FLAGS)", launching)
    )
    for variant in variants:
        named = {name.removeprefix("DISTTRAIN_") for name in variant.settings if name.startswith("DISTTRAIN_")}
        assert named <= launchers | {field.upper() for field in fields}
        texts = [" ".join(c["command"] + c.get("args", [])) for r, _, c in variant.containers() if r != "tensorboard"]
        for scripts in variant.of_kind("ConfigMap"):
            starts = [line for line in "\n".join(scripts["data"].values()).splitlines() if "--backend" in line]
            texts += [line.replace("--hostfile", "") for line in starts]
        given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(texts)))
        assert {"--epochs", "--backend"} <= given <= options
