"""What a program does with docker-py: one function a fact, named by what it proves.

    docker_py.py unix:///SOCKET [FACT...]
"""

import io
import socket
import sys
import tarfile
import threading
import time
import traceback

import docker

IMAGE = "base"


def run_gives_output_and_status(client):
    assert client.containers.run(IMAGE, "echo hello world", remove=True) == b"hello world\n"
    try:
        client.containers.run(IMAGE, ["sh", "-c", "echo out; echo err >&2; exit 5"], stderr=True, remove=True)
        raise AssertionError("an exit status went unnoticed")
    except docker.errors.ContainerError as error:
        assert error.exit_status == 5, error
        assert b"err" in error.stderr, error.stderr


def what_is_not_there_is_told_as_such(client):
    for what in (client.containers.get, client.images.get, client.networks.get):
        try:
            what("there-is-no-such-thing")
            raise AssertionError(what)
        except docker.errors.NotFound as error:
            assert error.status_code == 404, error
    try:
        client.containers.run("no-such-image-at-all", "true")
        raise AssertionError("an image out of nothing")
    except docker.errors.APIError as error:
        assert "no-such-image-at-all" in str(error), error


def a_detached_container_is_seen_stopped_and_removed(client):
    box = client.containers.run(
        IMAGE, ["sleep", "300"], detach=True, name="py-box", labels={"who": "py"}, hostname="nest",
        environment={"FOO": "bar"}, working_dir="/tmp", user="nobody",
    )
    assert box.status in ("created", "running"), box.status
    box.reload()
    assert box.status == "running"
    assert [one.id for one in client.containers.list(filters={"label": "who=py"})] == [box.id]
    assert box.attrs["Config"]["Labels"] == {"who": "py"}
    assert box.attrs["Config"]["Hostname"] == "nest"
    assert box.image.tags
    code, said = box.exec_run("sh -c 'hostname; echo $FOO; pwd; id -un'")
    assert (code, said.decode().split()) == (0, ["nest", "bar", "/tmp", "nobody"]), said
    assert box.exec_run("false").exit_code == 1
    code, (out, err) = box.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
    assert (out, err) == (b"out\n", b"err\n"), (out, err)
    assert b"".join(box.exec_run("echo stream", stream=True).output) == b"stream\n"
    top = box.top()
    assert any("sleep" in " ".join(row) for row in top["Processes"]), top
    box.pause()
    box.reload()
    assert box.status == "paused", box.status
    box.unpause()
    box.reload()
    assert box.status == "running", box.status
    box.rename("py-renamed")
    box.reload()
    assert box.name == "py-renamed"
    box.update(restart_policy={"Name": "on-failure", "MaximumRetryCount": 3})
    box.kill(signal="KILL")
    assert box.wait()["StatusCode"] == 137
    box.start()
    box.restart(timeout=1)
    box.stop(timeout=1)
    box.reload()
    assert box.status == "exited"
    box.remove()
    assert client.containers.list(all=True, filters={"name": "py-renamed"}) == []


def logs_are_whole_followed_and_stamped(client):
    box = client.containers.run(
        IMAGE, ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done; echo e >&2"], detach=True
    )
    assert b"".join(box.logs(stream=True, follow=True)).split() == [b"1", b"2", b"3", b"e"]
    assert box.logs(stdout=False) == b"e\n"
    assert box.logs(tail=1) == b"e\n"
    assert box.logs(timestamps=True).split()[0].startswith(b"20")
    assert box.logs(since=int(time.time()) + 3600) == b""
    assert box.wait()["StatusCode"] == 0
    box.remove()


def standard_input_goes_in_and_ends(client):
    api = client.api
    made = api.create_container(IMAGE, "cat", stdin_open=True, host_config=api.create_host_config())
    attached = api.attach_socket(made["Id"], params={"stdin": 1, "stdout": 1, "stream": 1})
    api.start(made["Id"])
    raw = attached._sock
    raw.sendall(b"typed\n")
    raw.shutdown(socket.SHUT_WR)
    assert api.wait(made["Id"])["StatusCode"] == 0
    assert api.logs(made["Id"]) == b"typed\n"
    api.remove_container(made["Id"])


def files_go_in_and_come_out(client):
    box = client.containers.create(IMAGE, ["sh", "-c", "cat /tmp/in/word; echo back > /tmp/out"])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("in/word")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"there"))
    assert box.put_archive("/tmp", packed.getvalue())
    box.start()
    assert box.wait()["StatusCode"] == 0
    assert box.logs() == b"there"
    bits, stat = box.get_archive("/tmp/out")
    assert stat["name"] == "out" and stat["size"] == 5, stat
    with tarfile.open(fileobj=io.BytesIO(b"".join(bits))) as archive:
        assert archive.extractfile("out").read() == b"back\n"
    changes = {change["Path"]: change["Kind"] for change in box.diff()}
    assert changes["/tmp/out"] == 1, changes
    exported = io.BytesIO(b"".join(box.export()))
    with tarfile.open(fileobj=exported) as archive:
        assert "tmp/out" in [name.lstrip("./") for name in archive.getnames()]
    image = box.commit("py/committed", tag="v1", message="by docker-py", author="me",
                       changes='CMD ["cat", "/tmp/out"]')
    assert "py/committed:v1" in image.tags, image.tags
    assert client.containers.run("py/committed:v1", remove=True) == b"back\n"
    configured = client.api.commit(box.id, "py/configured", conf={"Cmd": ["echo", "configured"]})
    assert client.containers.run(configured["Id"], remove=True) == b"configured\n"
    box.remove()
    client.images.remove("py/configured")
    client.images.remove("py/committed:v1")


def images_are_listed_tagged_saved_and_loaded(client):
    image = client.images.get(IMAGE)
    assert image.tag("py/other", "x")
    image.reload()
    assert "py/other:x" in image.tags
    assert any(image.id == one.id for one in client.images.list())
    assert client.images.list("py/other")
    assert isinstance(image.history(), list)
    saved = io.BytesIO(b"".join(image.save(named="py/other:x")))
    client.images.remove("py/other:x")
    loaded = client.images.load(saved.getvalue())
    assert "py/other:x" in loaded[0].tags, loaded
    client.images.remove("py/other:x")
    client.images.prune({"dangling": True})


def statistics_and_events_stream(client):
    since = time.time()
    box = client.containers.run(IMAGE, ["sleep", "300"], detach=True)
    once = box.stats(stream=False)
    assert once["memory_stats"]["usage"] > 0 and once["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    stream = box.stats(decode=True)
    first, second = next(stream), next(stream)
    assert second["read"] > first["read"], (first["read"], second["read"])
    seen = []
    events = client.events(decode=True, since=int(since), filters={"container": box.id})

    def listen():
        for event in events:
            seen.append(event["Action"])
            if event["Action"] == "destroy":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    box.remove(force=True)
    listener.join(60)
    assert not listener.is_alive()
    for action in ("create", "start", "die", "destroy"):
        assert action in seen, seen


def networks_join_containers(client):
    pool = docker.types.IPAMPool(subnet="10.77.0.0/24", gateway="10.77.0.1", aux_addresses={"nas": "10.77.0.2"})
    network = client.networks.create("py-net", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]),
                                     labels={"a": "b"})
    box = client.containers.run(IMAGE, ["sleep", "300"], detach=True, network="py-net", name="py-one")
    network.reload()
    assert network.containers == [box], network.attrs
    assert network.attrs["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"nas": "10.77.0.2"}, network.attrs
    box.reload()
    assert box.attrs["NetworkSettings"]["Networks"]["py-net"]["IPAddress"] == "10.77.0.3"
    said = client.containers.run(IMAGE, "ping -c 1 -W 30 py-one", network="py-net", remove=True)
    assert b"1 packets received" in said, said
    network.disconnect(box)
    network.connect(box, ipv4_address="10.77.0.99", aliases=["other"])
    box.reload()
    assert box.attrs["NetworkSettings"]["Networks"]["py-net"]["IPAddress"] == "10.77.0.99"
    box.remove(force=True)
    network.remove()
    assert client.networks.list(names=["py-net"]) == []


def ports_are_published(client):
    box = client.containers.run(IMAGE, ["sh", "-c", "while echo served | nc -l -p 80; do :; done"],
                                detach=True, ports={"80/tcp": None})
    box.reload()
    port = int(box.attrs["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
    deadline = time.time() + 60
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as peer:
                heard = peer.recv(100)
        except ConnectionError as error:
            heard = error
        if heard == b"served\n":
            break
        assert time.time() < deadline, heard
    box.remove(force=True)


def a_terminal_is_one_stream(client):
    box = client.containers.run(IMAGE, ["sh", "-c", "test -t 1 && echo tty"], tty=True, detach=True)
    box.wait()
    assert box.logs() == b"tty\r\n", box.logs()
    box.remove()
    box = client.containers.run(IMAGE, ["sleep", "300"], detach=True)
    assert box.exec_run("test -t 1", tty=True).exit_code == 0
    made = client.api.exec_create(box.id, "sleep 1", tty=True)
    client.api.exec_start(made["Id"], detach=True)
    client.api.exec_resize(made["Id"], height=20, width=60)
    assert client.api.exec_inspect(made["Id"])["Running"] in (True, False)
    box.remove(force=True)


def limits_and_policies_are_kept(client):
    box = client.containers.create(IMAGE, "true", mem_limit="300m", nano_cpus=500_000_000,
                                   restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
                                   tmpfs={"/scratch": "size=1m"}, extra_hosts={"db": "10.0.0.9"},
                                   dns=["9.9.9.9"], read_only=True, init=True,
                                   ulimits=[])
    config = box.attrs["HostConfig"]
    assert config["Memory"] == 300 << 20 and config["NanoCpus"] == 500_000_000, config
    assert config["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}, config
    assert config["ReadonlyRootfs"] is True
    box.start()
    assert box.wait()["StatusCode"] == 0
    box.remove()


def bounds_hold_for_each_process_and_change_while_it_runs(client):
    limits = [docker.types.Ulimit(name="nofile", soft=100, hard=200)]
    box = client.containers.run(
        IMAGE, ["sleep", "300"], detach=True, mem_limit="400m", cap_drop=["ALL"], cap_add=["NET_ADMIN"],
        security_opt=["no-new-privileges"], ulimits=limits, group_add=["1234"], pids_limit=50, shm_size="8m",
        sysctls={"net.ipv4.ip_forward": "1"}, pid_mode="host", cpu_shares=512,
    )
    asked = "; ".join([
        "grep -E '^(CapBnd|CapEff|NoNewPrivs):' /proc/self/status | cut -f2", "ulimit -Sn", "ulimit -Hn",
        "id -G", "cat /proc/sys/net/ipv4/ip_forward /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max",
        "df -k /dev/shm | tail -n 1 | awk '{print $2}'",
    ])
    of_root = "0000000000001000"
    expected = [of_root, of_root, "1", "100", "200", "0 1234", "1", "50", str(400 << 20), "8192"]
    said = box.exec_run(["sh", "-c", asked]).output.decode().splitlines()
    assert said == expected, said
    whole = box.exec_run(["grep", "CapBnd", "/proc/self/status"], privileged=True).output
    assert whole.split()[1] != of_root.encode(), whole
    host = box.attrs["HostConfig"]
    assert (host["PidMode"], host["CpuShares"], host["CapAdd"]) == ("host", 512, ["NET_ADMIN"]), host
    assert box.update(mem_limit="300m", cpu_shares=3)["Warnings"]
    said = box.exec_run("cat /sys/fs/cgroup/memory.max").output.split()
    assert said == [str(300 << 20).encode()], said
    box.reload()
    assert (box.attrs["HostConfig"]["Memory"], box.attrs["HostConfig"]["CpuShares"]) == (300 << 20, 3)
    try:
        box.update(mem_limit="2g", memswap_limit="2g")
        raise AssertionError("a virtual machine grew")
    except docker.errors.APIError as error:
        assert error.status_code == 409, error
    titles = box.top(ps_args="-o pid,comm")["Titles"]
    assert titles == ["PID", "COMMAND"], titles
    box.remove(force=True)


def the_answer_has_frames_as_the_start_of_an_exec_says(client):
    box = client.containers.run(IMAGE, ["sleep", "300"], detach=True)
    made = client.api.exec_create(box.id, ["echo", "framed"], tty=True)
    assert client.api.exec_start(made["Id"]) == b"framed\r\n"
    made = client.api.exec_create(box.id, ["echo", "bare"], tty=True)
    assert client.api.exec_start(made["Id"], tty=True) == b"bare\r\n"
    box.remove(force=True)


def a_health_check_is_carried_out(client):
    check = {"test": ["CMD-SHELL", "test -e /ready"], "interval": 500_000_000, "retries": 1}
    box = client.containers.run(IMAGE, ["sleep", "300"], detach=True, healthcheck=check)
    box.exec_run("touch /ready")
    box.reload()
    deadline = time.time() + 60
    while box.attrs["State"].get("Health", {}).get("Status") != "healthy":
        assert time.time() < deadline, box.attrs["State"]
        time.sleep(0.2)
        box.reload()
    box.remove(force=True)


def the_daemon_tells_of_itself(client):
    assert client.ping()
    assert client.version()["ApiVersion"]
    assert client.info()["OSType"] == "linux"
    assert "Images" in client.df()
    assert client.containers.prune()["SpaceReclaimed"] >= 0
    assert client.networks.prune() is not None


def what_is_left(client):
    assert client.containers.list(all=True) == []


def main():
    client = docker.DockerClient(base_url=sys.argv[1], timeout=300)
    only = sys.argv[2:]
    failed = 0
    mine = [(name, fact) for name, fact in globals().items()
            if callable(fact) and fact.__module__ == __name__ and name != "main"]
    for name, fact in mine:
        if only and name not in only:
            continue
        begun = time.time()
        try:
            fact(client)
            print(f"ok {name} ({time.time() - begun:.1f} s)", flush=True)
        except BaseException:
            failed += 1
            print(f"FAILED {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
            for box in client.containers.list(all=True):
                box.remove(force=True)
    sys.exit(failed > 0)


main()
