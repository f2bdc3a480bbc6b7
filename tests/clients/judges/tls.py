"""What sslscan, sslyze, testssl.sh and openssl say of a TLS listener: the same questions, and one answer expected of all."""

import json
import subprocess
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor

import findings
from support import document
from support.gateway import GUARD, Gateway, certificates
from support.oracle import same

EXPECTED = {
    "protocols": "TLS 1.2, TLS 1.3",
    "ciphers of TLS 1.2": "ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-ECDSA-CHACHA20-POLY1305",
    "ciphers of TLS 1.3": "TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256",
    "groups": "secp256r1, secp384r1, x25519",
    "certificates sent": "localhost, Spliceway development authority",
    "chain valid": "yes",
    "compression": "no",
    "renegotiation by the client": "no",
    "session resumed": "TLS 1.2, TLS 1.3",
    "early data": "no",
    "Heartbleed": "no",
    "CCS injection": "no",
    "Ticketbleed": "no",
    "ROBOT": "no",
    "Mozilla's profile \"intermediate\"": "kept",
}

# By the names that testssl.sh and sslyze have for them.
PROTOCOLS = {
    "SSLv2": "SSL 2",
    "SSLv3": "SSL 3",
    "TLS1": "TLS 1.0",
    "TLS1_1": "TLS 1.1",
    "TLS1_2": "TLS 1.2",
    "TLS1_3": "TLS 1.3",
}
SUITES = {
    "ssl_2_0": "SSL 2",
    "ssl_3_0": "SSL 3",
    "tls_1_0": "TLS 1.0",
    "tls_1_1": "TLS 1.1",
    "tls_1_2": "TLS 1.2",
    "tls_1_3": "TLS 1.3",
}

SCANS = """certinfo sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3 compression heartbleed openssl_ccs robot reneg fallback
    elliptic_curves ems early_data""".split()


def judge(folder, python, listed):
    """Asks each judge, side by side; gives the table."""
    own = folder / "tls"
    own.mkdir()
    with Gateway(own, '[[route]]\nname = "page"\nservice = "test-page"\n') as gateway, ThreadPoolExecutor() as judges:
        asked = {
            "sslscan": judges.submit(sslscan, own, gateway.port("tls")),
            "sslyze": judges.submit(sslyze, own, gateway.port("tls"), python),
            "testssl.sh": judges.submit(testssl, own, gateway.port("tls"), listed),
            "openssl": judges.submit(openssl, own, gateway.port("tls")),
        }
        said = {judge: future.result() for judge, future in asked.items()}
    for judge, answers in said.items():
        same(f"{judge}: what it should say", {question: EXPECTED[question] for question in answers}, answers)
    for question in EXPECTED:
        if not any(question in answers for answers in said.values()):
            raise AssertionError(f"nobody told: {question}")
    askers = {question: ", ".join(judge for judge in said if question in said[judge]) for question in EXPECTED}
    rows = [[question, answer, askers[question]] for question, answer in EXPECTED.items()]
    return document.table(["question", "answer", "by"], rows)


def run(folder, name, command, guard=GUARD, **options):
    """Runs a judge; what it writes is kept."""
    with open(folder / f"{name}.log", "w") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=guard, **options)


def joined(words):
    return ", ".join(sorted(words))


def yes(is_so):
    return "yes" if is_so else "no"


def sslscan(folder, port):
    file = folder / "sslscan.xml"
    run(folder, "sslscan", ["sslscan", "--no-colour", f"--xml={file}", f"localhost:{port}"], check=True)
    test = xml.parse(file).getroot().find("ssltest")
    enabled = [protocol for protocol in test.findall("protocol") if protocol.get("enabled") != "0"]

    def ciphers(version):
        return joined(cipher.get("cipher") for cipher in test.findall("cipher") if cipher.get("sslversion") == version)

    return {
        "protocols": joined(f"{protocol.get('type').upper()} {protocol.get('version')}" for protocol in enabled),
        "ciphers of TLS 1.2": ciphers("TLSv1.2"),
        "ciphers of TLS 1.3": ciphers("TLSv1.3"),
        "groups": joined(group.get("name").split()[0].lower() for group in test.findall("group")),
        "renegotiation by the client": yes(test.find("renegotiation").get("supported") != "0"),
        "Heartbleed": yes(any(h.get("vulnerable") != "0" for h in test.findall("heartbleed")) or test.find("heartbleed") is None),
    }


def sslyze(folder, port, python):
    file = folder / "sslyze.json"
    command = [python, "-m", "sslyze", f"--json_out={file}", "--certinfo_ca_file", certificates() / "ca.pem"]
    # It exits with 1 where Mozilla's profile is not kept.
    command += [*(f"--{scan}" for scan in SCANS), "--mozilla_config", "intermediate", f"localhost:{port}"]
    kept = run(folder, "sslyze", command).returncode == 0
    [scan] = json.loads(file.read_text())["server_scan_results"]
    result = {question: answer["result"] for question, answer in scan["scan_result"].items()}
    [deployment] = result["certificate_info"]["certificate_deployments"]
    suites = {name: result[f"{version}_cipher_suites"] for version, name in SUITES.items()}

    def ciphers(version):
        return joined(accepted["cipher_suite"]["openssl_name"] for accepted in suites[version]["accepted_cipher_suites"])

    return {
        "protocols": joined(name for name, told in suites.items() if told["is_tls_version_supported"]),
        "ciphers of TLS 1.2": ciphers("TLS 1.2"),
        "ciphers of TLS 1.3": ciphers("TLS 1.3"),
        "groups": joined(curve["name"].lower() for curve in result["elliptic_curves"]["supported_curves"]),
        "certificates sent": ", ".join(
            sent["subject"]["rfc4514_string"].removeprefix("CN=") for sent in deployment["received_certificate_chain"]
        ),
        # The one store of the machine that knows the development authority is the one that was given.
        "chain valid": yes(
            deployment["received_chain_has_valid_order"]
            and any(path["was_validation_successful"] for path in deployment["path_validation_results"])
        ),
        "compression": yes(result["tls_compression"]["supports_compression"]),
        "renegotiation by the client": yes(
            result["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
            or result["session_renegotiation"]["client_renegotiations_success_count"]
        ),
        "early data": yes(result["tls_1_3_early_data"]["supports_early_data"]),
        "Heartbleed": yes(result["heartbleed"]["is_vulnerable_to_heartbleed"]),
        "CCS injection": yes(result["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]),
        "ROBOT": yes(not result["robot"]["robot_result"].startswith("NOT_VULNERABLE")),
        "Mozilla's profile \"intermediate\"": "kept" if kept else "not kept",
    }


def testssl(folder, port, listed):
    """Its checks are many, and slow: the ones that the others do not make, and those that must not be wrong."""
    file = folder / "testssl.json"
    checks = ["-p", "-S", "-H", "-I", "-T", "-R", "-C"]
    quiet = ["--quiet", "--fast", "--color", "0", "--warnings", "off", "--nodns", "none", "--jsonfile", file]
    command = ["testssl", *quiet, *checks, "--add-ca", certificates() / "ca.pem", f"localhost:{port}"]
    run(folder, "testssl", command, guard=5 * GUARD, cwd=folder, stdin=subprocess.DEVNULL)
    said = {finding["id"]: finding for finding in json.loads(file.read_text())}
    if "scanTime" not in said:
        raise AssertionError(f"testssl.sh did not come to its end: {folder / 'testssl.log'}")
    # WARN is a check that it could not make on this machine; where that matters, an answer is missing below.
    bad = ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL")
    complaints = [[id, finding["severity"]] for id, finding in said.items() if finding["severity"] in bad]
    findings.hold(listed, "testssl.sh", complaints)

    def vulnerable(id):
        return "no" if said[id]["severity"] == "OK" and "not vulnerable" in said[id]["finding"] else said[id]["finding"]

    return {
        "protocols": joined(name for id, name in PROTOCOLS.items() if said[id]["finding"] != "not offered"),
        "chain valid": yes(said["cert_chain_of_trust"]["finding"] == "passed." and said["certs_countServer"]["finding"] == "2"),
        "compression": vulnerable("CRIME_TLS"),
        "renegotiation by the client": vulnerable("secure_client_renego"),
        "Heartbleed": vulnerable("heartbleed"),
        "CCS injection": vulnerable("CCS"),
        "Ticketbleed": vulnerable("ticketbleed"),
    }


def openssl(folder, port):
    """Whether a second connection takes up the session of the first; the first waits for its ticket by asking for a page."""
    resumed = []
    for name, version in (("TLS 1.2", "-tls1_2"), ("TLS 1.3", "-tls1_3")):
        session = folder / f"session{version}"
        client = ["openssl", "s_client", "-connect", f"localhost:{port}", version, "-ign_eof"]
        asked = "HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        options = {"input": asked, "text": True, "capture_output": True, "timeout": GUARD, "check": True}
        subprocess.run([*client, "-sess_out", session], **options)
        if "\nReused, " in subprocess.run([*client, "-sess_in", session], **options).stdout:
            resumed.append(name)
    return {"session resumed": ", ".join(resumed)}
