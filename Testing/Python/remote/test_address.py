"""Names of other machines, and the command for them."""

from __future__ import annotations

import subprocess

import pytest

from DiffuGTSLib.remote.address import (
    Address,
    BadAddress,
    SshMissing,
    configured_hosts,
    environment,
)


@pytest.mark.parametrize(("text", "host", "program"), [
    ("gpu", "gpu", ""), ("ada@gpu.example.org", "ada@gpu.example.org", ""),
    ("gpu:/opt/my env/bin/diffugts", "gpu", "/opt/my env/bin/diffugts"),
    ("gpu:~/env/bin/diffugts", "gpu", "~/env/bin/diffugts"),
    ("ssh://ada@gpu:2222", "ssh://ada@gpu:2222", ""),
    ("ssh://ada@[::1]:22/opt/diffugts", "ssh://ada@[::1]:22", "/opt/diffugts"),
])
def test_addresses(text, host, program):
    address = Address.parse(text)
    assert (address.host, address.program) == (host, program)
    assert str(address) == text


@pytest.mark.parametrize("text", [
    "", " ", "-oProxyCommand=x", "-gpu", "gpu host", "gpu;ls", "a@-b", "$(ls)", "ssh://-x",
    "gpu:/bin/x\ny"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(BadAddress):
        Address.parse(text)


def test_the_program_is_quoted_for_the_other_shell(monkeypatch):
    monkeypatch.setenv("DIFFUGTS_SSH", "echo")
    *options, end, host, command = Address.parse("gpu:/opt/a b/it's").command("remote", "relay")
    assert (end, host) == ("--", "gpu")
    assert "BatchMode=yes" in options
    script = command.replace("exec ", "echo ")
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "/opt/a b/it's remote relay\n"


def test_a_home_folder_is_that_of_the_other_side(monkeypatch):
    monkeypatch.setenv("DIFFUGTS_SSH", "echo")
    command = Address.parse("gpu:~/env/diffugts").command("doctor")[-1]
    said = subprocess.run(["sh", "-c", command.replace("exec ", "echo ")], capture_output=True,
                          text=True, check=True, env={"HOME": "/ada", "PATH": "/bin:/usr/bin"})
    assert said.stdout == "/ada/env/diffugts doctor\n"


def test_no_ssh_here(monkeypatch):
    monkeypatch.setenv("DIFFUGTS_SSH", "/nowhere/ssh")
    with pytest.raises(SshMissing):
        Address("gpu").command("doctor")


def test_the_libraries_of_an_application_do_not_reach_ssh(monkeypatch):
    for name in ("LD_LIBRARY_PATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "/opt/Slicer/lib")
        assert name not in environment()


def test_hosts_of_a_configuration_with_an_include(tmp_path):
    (tmp_path / "more").write_text("Host=cluster\n")
    config = tmp_path / "config"
    config.write_text(f"# mine\nHost gpu big-gpu *.example.org !no\n  User ada\nHost *\n"
                      f"Include {tmp_path}/mor*\nHost gpu\n")
    assert configured_hosts(config) == ["gpu", "big-gpu", "cluster"]


def test_a_configuration_that_includes_itself_ends(tmp_path):
    config = tmp_path / "config"
    config.write_text(f"Host gpu\nInclude {config}\n")
    assert configured_hosts(config) == ["gpu"]


def test_no_configuration(tmp_path):
    assert configured_hosts(tmp_path / "none") == []
