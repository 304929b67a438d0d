"""The commands about jobs on a cluster, and about the local cluster; no logic."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from p5dist.cli.arguments import CLUSTER, Job, Json, Words, split_words

app = typer.Typer()
jobs_app = typer.Typer(
    help="Jobs on a Ray cluster: list, status, logs, stop.", no_args_is_help=True
)
cluster_app = typer.Typer(
    help="A Ray cluster of several nodes on this machine, to try submissions and failures.",
    no_args_is_help=True,
)

app.add_typer(jobs_app, name="jobs", rich_help_panel=CLUSTER)
app.add_typer(cluster_app, name="cluster", rich_help_panel=CLUSTER)

Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS", help="Job server of the cluster: http://HEAD:8265."
    ),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the job, printed by submit and list.")]
Folder = Annotated[
    Path | None,
    typer.Option(help="Folder for the files of the cluster; needed for a second cluster."),
]


@app.command(rich_help_panel=CLUSTER)
def submit(
    job: Job,
    words: Words = None,
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Job server: http://HEAD:8265."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the log until the job ends.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the submission; send nothing.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Submit even if the same job has finished.")
    ] = False,
    image_has_package: Annotated[
        bool, typer.Option("--image-has-package", help="Send the job file only, no code.")
    ] = False,
    python: Annotated[
        str | None, typer.Option(help="Interpreter on the nodes; left out: Ray's interpreter.")
    ] = None,
    driver_cpus: Annotated[
        float, typer.Option(help="0: driver on the head node; else on a node with free CPUs.")
    ] = 0.0,
    driver_memory_gb: Annotated[float, typer.Option(help="Memory that the driver reserves.")] = 0.0,
    render: Annotated[
        str | None,
        typer.Option(
            metavar="kuberay|raycluster|rayservice|aws|slurm",
            help="Print the file for this scheduler; send nothing.",
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Container image with p5dist, for --render.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the job on a Ray cluster; a job that is submitted twice runs once."""
    from p5dist.config import load_job
    from p5dist.observe.stages import select
    from p5dist.submit import show
    from p5dist.submit.submission import Options

    stages, overrides = split_words(words)
    loaded = load_job(job, overrides)
    select(loaded, stages)
    if render is not None:
        print(show.rendered(render, loaded, tuple(stages), image), end="")
        return
    options = Options(
        stages=tuple(stages),
        image_has_package=image_has_package,
        python=python,
        driver_cpus=driver_cpus,
        driver_memory=int(driver_memory_gb * 2**30),
        again=again,
    )
    code = show.submit(
        loaded, options, address, wait=wait, follow=follow, dry_run=dry_run, as_json=as_json
    )
    raise typer.Exit(code)


@jobs_app.command("list")
def list_jobs(address: Address, as_json: Json = False) -> None:
    """The jobs that the cluster remembers."""
    from p5dist.submit.client import JobServer
    from p5dist.submit.follow import when

    jobs = JobServer(address).jobs()
    if as_json:
        print(json.dumps([asdict(job) for job in jobs], indent=2))
        return
    for job in jobs:
        print(f"{job.id:<40} {job.status:<10} {when(job.start)}")


@jobs_app.command()
def status(id: Id, address: Address, as_json: Json = False) -> None:
    """Print the status of a job; exit code 1 if the job failed."""
    from p5dist.submit.client import JobServer
    from p5dist.submit.follow import EXIT_CODES, outcome, when

    server = JobServer(address)
    job = server.job(id)
    if as_json:
        print(json.dumps(asdict(job), indent=2))
    else:
        print(outcome(server, job, shown=False))
        print(
            f"  started {when(job.start)}  run folder {job.metadata.get('p5dist_run', 'unknown')}"
        )
    raise typer.Exit(EXIT_CODES.get(job.status, 0))


@jobs_app.command()
def logs(
    id: Id,
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until the job ends.")
    ] = False,
) -> None:
    """Print the log of a job."""
    from p5dist.environment.redact import redact_text
    from p5dist.submit.client import JobServer
    from p5dist.submit.follow import EXIT_CODES, wait

    server = JobServer(address)
    if follow:
        raise typer.Exit(EXIT_CODES[wait(server, id, follow=True).status])
    sys.stdout.write(redact_text(server.logs(id)))


@jobs_app.command()
def stop(id: Id, address: Address) -> None:
    """Ask a job to save a checkpoint and end, and wait until it has ended."""
    from p5dist.environment.console import console
    from p5dist.submit.client import JobServer
    from p5dist.submit.follow import wait
    from p5dist.submit.submission import STOP_SECONDS

    server = JobServer(address)
    if server.stop(id):
        console.print(f"{id} was asked to end; it may take {STOP_SECONDS} s to save first")
    print(f"{id}: {wait(server, id, seconds=STOP_SECONDS + 30).status}")


@cluster_app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes, including the head.")] = 2,
    cpus: Annotated[float, typer.Option(help="CPUs that each node reports to Ray.")] = 1,
    port: Annotated[int, typer.Option(help="Port of dashboard and job server (loopback).")] = 8265,
    store_mb: Annotated[int, typer.Option(help="Object store of each node, in MiB.")] = 256,
    separate_hosts: Annotated[
        bool,
        typer.Option(
            help="Give each node a separate address (127.0.0.2, …), as separate machines have. "
            "Ray then listens on all interfaces: do not use it on a machine that others can reach."
        ),
    ] = False,
    folder: Folder = None,
) -> None:
    """Start real Ray nodes on this machine."""
    from p5dist.submit.local import LocalCluster

    cluster = LocalCluster(folder)
    cluster.up(nodes=nodes, cpus=cpus, port=port, store_mb=store_mb, separate_hosts=separate_hosts)
    _show(folder, False)


@cluster_app.command("status")
def cluster_status(folder: Folder = None, as_json: Json = False) -> None:
    """The started nodes: alive or ended."""
    _show(folder, as_json)


@cluster_app.command("add-node")
def add_node(folder: Folder = None) -> None:
    """Start one more node, like the others."""
    from p5dist.submit.local import LocalCluster

    LocalCluster(folder).add(1)
    _show(folder, False)


@cluster_app.command("kill-node")
def kill_node(
    number: Annotated[int, typer.Argument(metavar="N", help="Number of the node; 0: the head.")],
    folder: Folder = None,
) -> None:
    """Kill a node, to simulate the failure of a machine."""
    from p5dist.submit.local import LocalCluster

    node = LocalCluster(folder).kill(number)
    print(f"node {node.number} (process {node.pid}) was killed")


@cluster_app.command()
def down(folder: Folder = None) -> None:
    """End the nodes of this local cluster, and no other Ray processes."""
    from p5dist.submit.local import LocalCluster

    print(f"ended {LocalCluster(folder).down()} nodes")


def _show(folder: Path | None, as_json: bool) -> None:
    from p5dist.submit.local import LocalCluster

    cluster = LocalCluster(folder)
    nodes, dashboard = cluster.nodes(), cluster.dashboard
    if as_json:
        listed = [asdict(node) | {"alive": node.alive} for node in nodes]
        print(json.dumps({"job_server": dashboard, "nodes": listed}, indent=2))
        return
    for node in nodes:
        state = "alive" if node.alive else "ended"
        role = "head" if node.number == 0 else "worker"
        print(f"node {node.number}  {role:<7}{state:<6} {node.cpus:g} CPU  {node.ip}  {node.pid}")
    print(f"job server: {dashboard}" if dashboard else "no local cluster is up")
